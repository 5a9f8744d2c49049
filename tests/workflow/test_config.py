"""The project file: what it accepts, and what it says when it does not."""

from pathlib import Path

import pytest

from toolchain.errors import ConfigurationError
from toolchain.workflow.config import load_config

GOOD = """
[project]
name = "digits"
[data]
kind = "digits"
[space]
name = "image2d"
[target]
url = "cpu:litert"
[target.budgets]
latency = "2 ms"
flash = "64 kB"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "boardfit.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_good_file_with_defaults(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GOOD))
    assert config.search.method == "connas"
    assert [(b.metric, b.bound) for b in config.target.limits] == [
        ("latency_us", 2000),
        ("flash_bytes", 64000),
    ]
    assert load_config(tmp_path) == config


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (("[target.budgets]\nlatency", "[target.budgets]\nlatencey"), ["latencey", "use one of", "latency"]),
        (('url = "cpu', 'ulr = "cpu'), ["unknown key 'target.ulr'", "did you mean 'target.url'"]),
        (("[space]", "[spaces]"), ["unknown key 'spaces'", "did you mean 'space'", "missing key 'space'"]),
        (('kind = "digits"', 'kind = "parquet"'), ["data.kind", "parquet", "'npz'"]),
        (('"2 ms"', '"2 bananas"'), ["bananas", "us, µs, ms"]),
        (('[project]\nname = "digits"', "[project]"), ["missing key 'project.name'"]),
        (("[data]", "[data"), ["not TOML"]),
    ],
)
def test_bad_files_name_the_key_and_the_remedy(
    tmp_path: Path, change: tuple[str, str], parts: list[str]
) -> None:
    text = GOOD.replace(*change)
    assert text != GOOD
    with pytest.raises(ConfigurationError) as caught:
        load_config(write(tmp_path, text))
    for part in parts:
        assert part in str(caught.value)


def test_no_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="boardfit init"):
        load_config(tmp_path)


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "boardfit.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match="cannot read"):
        load_config(tmp_path)
