"""A tiny but complete project (six networks, three easy classes of 8x8 images, few epochs), and what two runs share."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

SPACE = '''
from torch import nn

from toolchain.spaces import Candidate, Choice, Space


class MySpace(Space):
    """Two blocks of 4 or 8 channels, the second one may be skipped."""

    def __init__(self, input_shape: tuple[int, ...], classes: int = 3) -> None:
        self.input_shape = tuple(input_shape)
        self.classes = classes
        weighted = (Candidate("c4", "conv", 4), Candidate("c8", "conv", 8))
        self.choices = (Choice("first", weighted), Choice("second", (*weighted, Candidate("id", "id"))))

    def stem(self) -> nn.Module:
        return nn.MaxPool2d(2)

    def block(self, position: int, candidate: Candidate, in_shape: tuple[int, ...]) -> nn.Module | None:
        if candidate.channels is None:
            return nn.Identity()
        return nn.Sequential(
            nn.Conv2d(in_shape[0], candidate.channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(candidate.channels),
            nn.ReLU(),
        )

    def head(self, in_shape: tuple[int, ...]) -> nn.Module:
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(in_shape[0], self.classes))
'''

CONFIG = """
[project]
name = "tiny"
[data]
kind = "npz"
path = "data.npz"
[space]
name = "my_space.py:MySpace"
[target]
url = "{url}"
precision = "{precision}"
[target.budgets]
{budgets}
[profile]
networks = 4
[search]
epochs = {search_epochs}
batch_size = 32
samples = 8
[training]
epochs = {epochs}
calibration_samples = 48
"""
BUDGETS = 'flash = "20 kB"\nram = "4 kB"'


def channels_of(*widths: int) -> str:
    """`SPACE` with blocks of these many channels."""
    blocks = ", ".join(f'Candidate("c{width}", "conv", {width})' for width in widths)
    return SPACE.replace('Candidate("c4", "conv", 4), Candidate("c8", "conv", 8)', blocks)


def make_project(
    folder: Path,
    *,
    space: str = SPACE,
    url: str = "cpu:litert",
    precision: str = "int8",
    budgets: str = BUDGETS,
    search_epochs: int = 3,
    epochs: int = 12,
) -> Path:
    """Write the project into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "my_space.py").write_text(space)
    write_data(folder / "data.npz")
    text = CONFIG.format(
        url=url, precision=precision, budgets=budgets, search_epochs=search_epochs, epochs=epochs
    )
    (folder / "boardfit.toml").write_text(text)
    return folder


def virtual_boards() -> bool:
    """Whether the packages that a virtual board needs are here."""
    return all(importlib.util.find_spec(name) for name in ("unicorn", "capstone", "serial", "elftools"))


def write_data(path: Path, *, seed: int = 0, each: int = 40) -> None:
    """Three classes of noisy grey images that differ in brightness and in texture."""
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[0:8, 0:8]
    patterns = [0.1 * np.ones((8, 8)), 0.5 * (row // 4 + column // 4) % 1.0, 0.6 + 0.4 * (column // 2 % 2)]
    x = np.stack([p + rng.normal(0, 0.05, (each, 8, 8)) for p in patterns]).reshape(-1, 1, 8, 8)
    np.savez(path, x=x.astype(np.float32), y=np.repeat(np.arange(3), each))


def edit(folder: Path, old: str, new: str) -> None:
    """Change the project file as a user would."""
    path = folder / "boardfit.toml"
    text = path.read_text()
    assert text.count(old) == 1, old
    path.write_text(text.replace(old, new))


def timeless(value: Any) -> Any:
    """A record without times of the day and durations."""
    if isinstance(value, dict):
        gone = ("seconds", "created_at", "checksum", "milliseconds")
        return {key: timeless(item) for key, item in value.items() if key not in gone}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def same(one: Any, other: Any, where: str) -> None:
    """Equal, and where not: said by its place."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key, value in one.items():
            same(value, other[key], f"{where}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for number, pair in enumerate(zip(one, other, strict=True)):
            same(*pair, f"{where}[{number}]")
    else:
        assert one == other, where
