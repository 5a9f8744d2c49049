"""Spaces by name or by file, with errors that say what to do; and the space in docs/own-space.md."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from toolchain.errors import ConfigurationError
from toolchain.spaces import Mobilenet, load_space
from toolchain.supernet import Supernet

DOCS = Path(__file__).parents[2] / "docs"


def test_built_in_spaces_take_parameters() -> None:
    assert load_space("connas1d", channels=(8, 16), edges=2).count() == 4 * 5
    assert load_space("image2d", input_shape=(3, 16, 16), widths=(4,), blocks=1).input_shape == (3, 16, 16)


@pytest.mark.parametrize(
    ("text", "reference", "message"),
    [
        ("", "nope", r"unknown space 'nope' \(use connas1d, image2d, mobilenet, or a file"),
        ("", "{folder}/other.py:A", "no file"),
        ("x = 1", "{file}:A", "no class A.*no subclass"),
        ("from toolchain.spaces import Dense", "{file}:A", "line 1: ImportError"),
        ("x = 1\n\nx +", "{file}:A", "line 3: SyntaxError"),
        ("\nraise ValueError('no')", "{file}:A", "line 2: ValueError: no"),
        ("class A: pass", "{file}:A", "A in .* is not a Space"),
        ("A = 3", "{file}:A", "not a Space"),
        ("from toolchain.spaces import Space\nclass A(Space): pass", "{file}:A", "does not define block, head, stem"),
        ("from toolchain.spaces import Space\nclass B(Space): pass", "{file}:A", "no class A.*it has B"),
    ],
)  # fmt: skip
def test_what_cannot_be_loaded_says_why(tmp_path: Path, text: str, reference: str, message: str) -> None:
    file = tmp_path / "my.py"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        load_space(reference.format(folder=tmp_path, file=file))


def test_wrong_parameters_are_named_with_those_that_exist() -> None:
    with pytest.raises(ConfigurationError, match=r"no parameter 'width'.*did you mean 'widths'"):
        load_space("image2d", width=3)
    with pytest.raises(ConfigurationError, match=r"no parameter 'colour'.*it has .*stages"):
        load_space("image2d", colour=3)
    with pytest.raises(ConfigurationError, match="cannot be made"):
        load_space("connas1d", channels=8)


def _blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), flags=re.DOTALL)


def test_the_documented_space_works(tmp_path: Path) -> None:
    source, _ = _blocks("own-space.md")
    file = tmp_path / "my_space.py"
    file.write_text(source)
    space = load_space(f"{file}:MySpace", size=16)
    architectures = list(space)
    assert space.count() == len(architectures) == 354
    x = torch.randn(2, 1, 16, 16)
    supernet = Supernet(space).eval()
    for architecture in architectures[:: len(architectures) // 7]:
        logits = supernet.forward_architecture(x, architecture)
        assert torch.equal(logits, supernet.extract(architecture)(x))
        torch.testing.assert_close(supernet.forward_relaxed(x, supernet.one_hot(architecture)), logits)
        assert space.module(architecture).eval()(x).shape == logits.shape
    assert len(space.chain("int8").operators) > 10
    assert space.valid(space.sample(np.random.default_rng(0)))


def test_the_documented_session_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, session = _blocks("own-space.md")
    (tmp_path / "my_space.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    exec(compile(session, "docs/own-space.md", "exec"), {})
    printed = capsys.readouterr().out
    assert re.search(r"print\(space.count\(\)\)  # (\d+)", session)[1] == printed.split()[0]


def test_the_documented_contributions_run() -> None:
    torch.manual_seed(0)
    space = Mobilenet(input_shape=(1, 8, 8), classes=3, widths=(4, 6), depth=2)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 1, 8, 8)).astype(np.float32)
    names = {
        "space": space, "supernet": Supernet(space).eval(), "x_val": x, "y_val": rng.integers(3, size=40),
        "x_train": x, "architecture": space.sample(rng),
    }  # fmt: skip
    (session,) = _blocks("spaces.md")
    exec(compile(session.replace("50_000", "64"), "docs/spaces.md", "exec"), names)
    assert names["scores"].shape == (1,)
    assert names["found"].samples >= 64
