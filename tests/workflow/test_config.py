"""The project file: what it accepts, and what it says when it does not."""

from pathlib import Path

import pytest

from toolchain.errors import ConfigurationError
from toolchain.workflow.config import load_config, name_of, parse_share
from toolchain.workflow.project import open_project

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
    assert [(b.metric, b.bound) for b in config.target[0].limits] == [
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


SEVERAL = """
[project]
name = "digits"
[data]
kind = "digits"
[space]
name = "image2d"
[[target]]
url = "cpu:litert"
budgets = {latency = "2 ms", macs = "1 M"}
[[target]]
name = "stm32"
url = "virtual:nucleo-l4r5zi"
budgets = {flash = "64 kB"}
"""


def test_several_targets_and_what_their_metrics_are_called(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, SEVERAL))
    first, second = config.target
    assert (first.name, second.name) == ("cpu-litert", "stm32")
    assert config.metric(second, "flash_bytes") == "stm32:flash_bytes"
    assert config.metric(first, "macs") == config.metric(second, "macs") == "macs"
    one = load_config(write(tmp_path, GOOD))
    assert one.metric(one.target[0], "latency_us") == "latency_us"
    assert load_config(write(tmp_path, GOOD.replace("[target]", "[[target]]"))) == one


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("cpu:litert?threads=2", "cpu-litert"),
        ("virtual:nucleo-l4r5zi?runtime=tflm", "nucleo-l4r5zi"),
        ("serial:/dev/ttyACM0?board=nucleo-f446re", "nucleo-f446re"),
        ("ssh://pi@raspberrypi.local:22?threads=4", "raspberrypi"),
        ("ssh://10.0.0.7", "10.0.0.7"),
    ],
)
def test_targets_are_named_after_their_urls(url: str, name: str) -> None:
    assert name_of(url) == name


def test_names_that_follow_from_urls_are_unique(tmp_path: Path) -> None:
    text = GOOD.partition("[target]")[0] + '[[target]]\nurl = "cpu:litert"\n' * 3
    assert [t.name for t in load_config(write(tmp_path, text)).target] == [
        "cpu-litert",
        "cpu-litert-2",
        "cpu-litert-3",
    ]


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (('name = "stm32"', 'name = "a:b"'), ["target.2.name = 'a:b'", "letters, digits"]),
        (
            ('name = "stm32"', 'name = "x"\nulr = 1'),
            ["unknown key 'target.2.ulr'", "did you mean 'target.2.url'"],
        ),
        (('flash = "64 kB"', 'flash = "64 bananas"'), ["target.2.budgets", "bananas"]),
        (('url = "cpu:litert"', 'name = "stm32"'), ["two targets are called 'stm32'"]),
    ],
)
def test_bad_targets_are_named_by_their_number(
    tmp_path: Path, change: tuple[str, str], parts: list[str]
) -> None:
    text = SEVERAL.replace(*change)
    assert text != SEVERAL
    with pytest.raises(ConfigurationError) as caught:
        load_config(write(tmp_path, text))
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("text", ["0 %", "101 %", "25", "some", "-5 %"])
def test_shares_that_are_none(text: str) -> None:
    with pytest.raises(ConfigurationError, match='write for example "25 %"'):
        parse_share(text)


def test_a_target_is_chosen_by_name_or_url(tmp_path: Path) -> None:
    path = write(tmp_path, SEVERAL)
    for text in ("stm32", "virtual:nucleo-l4r5zi"):
        (chosen,) = open_project(path, text).config.target
        assert chosen.name == "stm32"
    with pytest.raises(
        ConfigurationError, match=r"none of the project's targets is called 'pi'.*cpu-litert, stm32"
    ):
        open_project(path, "pi")
    (any_url,) = open_project(write(tmp_path, GOOD), "cpu:torch").config.target
    assert (any_url.url, len(any_url.limits)) == ("cpu:torch", 2)


def test_a_wrong_budget_is_said_once_and_without_its_section(tmp_path: Path) -> None:
    text = GOOD.replace('"2 ms"', '"2 bananas"')
    with pytest.raises(ConfigurationError) as caught:
        load_config(write(tmp_path, text))
    assert "64 kB" not in caught.value.message
    assert "Tuple" not in caught.value.message
