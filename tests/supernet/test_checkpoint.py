"""Checkpoints come back whole, or say that they are damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from toolchain.errors import BoardfitError, ConfigurationError
from toolchain.spaces import Image2d
from toolchain.supernet import Supernet, load_checkpoint, restore, save_checkpoint

NOTES = {"seed": 3, "epoch": 7, "space": "image2d", "history": [1.5, 2.5], "best": None}


def test_weights_and_notes_come_back(tmp_path: Path) -> None:
    space = Image2d(blocks=1)
    supernet = Supernet(space)
    path = tmp_path / "deep" / "supernet.safetensors"
    save_checkpoint(path, supernet.state_dict(), NOTES)
    checkpoint = load_checkpoint(path)
    assert checkpoint.metadata == NOTES
    other = Supernet(space)
    restore(other, checkpoint.tensors, str(path))
    for name, tensor in supernet.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)
        assert checkpoint.tensors[name].dtype == tensor.dtype


def test_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    tensors = {
        "b": torch.arange(3),
        "a": torch.ones(2, 2).T,
        "shared": torch.zeros(4)[:2],
        "scalar": torch.tensor(1.0),
    }
    for name in ("one", "two"):
        save_checkpoint(tmp_path / name, tensors, NOTES)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert load_checkpoint(tmp_path / "one").tensors["scalar"].shape == ()


@pytest.mark.parametrize("damage", ["cut", "empty", "flip", "text"])
def test_damage_is_noticed(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, {"w": torch.arange(100.0)}, NOTES)
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[-10] ^= 4
    path.write_bytes(
        {"cut": data[:-8], "empty": b"", "flip": bytes(data), "text": b"not a checkpoint"}[damage]
    )
    with pytest.raises(ConfigurationError, match="damaged"):
        load_checkpoint(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot read"):
        load_checkpoint(tmp_path / "none")
    foreign = tmp_path / "foreign"
    foreign.write_bytes(save({"w": torch.zeros(2)}))
    with pytest.raises(ConfigurationError, match="not a checkpoint of boardfit"):
        load_checkpoint(foreign)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c"
    save_checkpoint(path, {"w": torch.zeros(2)}, {"epoch": 1})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(BoardfitError, match="No space left"):
        save_checkpoint(path, {"w": torch.ones(2)}, {"epoch": 2})
    assert load_checkpoint(path).metadata == {"epoch": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_another_networks_weights_are_refused(tmp_path: Path) -> None:
    narrow, wide = Supernet(Image2d(widths=(4,), blocks=1)), Supernet(Image2d(widths=(8,), blocks=1))
    with pytest.raises(ConfigurationError, match=r"old does not fit this network: \d+ tensors differ"):
        restore(wide, narrow.state_dict(), "old")


def test_notes_must_be_json(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="not JSON"):
        save_checkpoint(tmp_path / "c", {}, {"x": object()})
