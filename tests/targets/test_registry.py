"""Plug-ins: which modules know which schemes, and what is said of plug-ins that do not work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from targets import registry
from targets.registry import OWN, PAGE, module_of
from targets.session import HERE, device_of, is_board, list_targets, model_format, open_target
from toolchain.errors import BoardfitError, ConfigurationError
from toolchain.workflow.doctor import _targets

Install = Callable[..., None]
GOOD = """
from targets.session import Target

def find():
    return [Target("toy:one", "toy", "a toy", True)]

def model_format(url):
    return "tflite"

def open_session(url, *, anchor, baseline, cache):
    raise RuntimeError(f"opened {url}")
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a package on the path as pip leaves it there: a module and metadata with an entry point."""

    def put(
        package: str = "toy-target", source: str = GOOD, *, scheme: str = "toy", module: str = "toy_1"
    ) -> None:
        folder = tmp_path / package
        info = folder / f"{package.replace('-', '_')}-1.2.dist-info"
        info.mkdir(parents=True)
        (folder / f"{module}.py").write_text(source)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[boardfit.targets]\n{scheme} = {module}\n")
        monkeypatch.syspath_prepend(str(folder))

    return put


def listed(url: str) -> tuple[bool, str, str]:
    (found,) = [target for target in list_targets() if target.url == url]
    return found.available, found.description, found.notes


def test_every_module_of_boardfits_own_offers_what_a_target_needs() -> None:
    for scheme in OWN:
        module = module_of(scheme)
        assert all(callable(getattr(module, name)) for name in registry.NEEDED)
    assert module_of("nothing") is None


def test_a_plug_in_is_listed_and_opened(install: Install) -> None:
    install(module="toy_good")
    assert listed("toy:one") == (True, "a toy", "plug-in toy-target 1.2")
    assert model_format("toy:one?x=1") == "tflite"
    with pytest.raises(RuntimeError, match=r"opened toy:one\?x=1"):
        open_target("toy:one?x=1")


def test_what_a_plug_in_need_not_offer(install: Install) -> None:
    install(module="toy_short")
    assert not is_board("toy:one")
    assert device_of("toy:one?x=1") == "toy:one"
    rest = "\ndef is_board(url):\n    return True\n\ndef device_of(url):\n    return 'the bench'\n"
    install("other-target", GOOD + rest, scheme="other", module="toy_long")
    assert is_board("other:one")
    assert device_of("other:one") == "the bench"
    assert (is_board("cpu"), device_of("cpu")) == (False, HERE)


@pytest.mark.parametrize(
    ("source", "why", "remedy"),
    [
        ("import no_such_driver", "cannot be imported: ModuleNotFoundError: No module named 'no_such_driver'",
         "install what it needs, or pip uninstall toy-target"),
        ("raise ValueError('out of\\nluck')", "cannot be imported: ValueError: out of", "pip uninstall"),
        ("def find():\n    return []", "has no function open_session, model_format in toy_bad", PAGE),
        (GOOD + "device_of = 'here'", "has no function device_of", PAGE),
    ],
)  # fmt: skip
def test_a_plug_in_that_does_not_work_is_named(
    source: str, why: str, remedy: str, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(__import__("sys").modules, "toy_bad", raising=False)
    install(source=source, module="toy_bad")
    with pytest.raises(ConfigurationError) as caught:
        open_target("toy:one")
    assert "toy-target 1.2 for targets toy:" in caught.value.message
    assert why in caught.value.message
    assert remedy in caught.value.remedy
    assert listed("toy:") == (False, caught.value.message, caught.value.remedy)
    assert any(target.url == "cpu:litert" for target in list_targets())  # the others are there all the same
    (check,) = [check for check in _targets() if check.name == "toy:"]
    assert (check.status, check.remedy) == ("warning", caught.value.remedy)


@pytest.mark.parametrize("body", ["raise OSError('no bus')", "return ['toy']", "return None"])
def test_a_find_that_fails_is_named(body: str, install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(__import__("sys").modules, "toy_lost", raising=False)
    install(source=f"{GOOD}\ndef find():\n    {body}\n", module="toy_lost")
    available, text, remedy = listed("toy:")
    assert not available
    assert text.startswith("find() of the plug-in toy-target 1.2 failed: ")
    assert "toy-target" in remedy


def test_a_plug_in_must_not_take_a_scheme_of_boardfit(install: Install) -> None:
    install(scheme="cpu", module="toy_cpu")
    with pytest.raises(ConfigurationError) as caught:
        open_target("cpu:litert")
    assert (
        caught.value.message == "the plug-in toy-target 1.2 claims targets cpu:..., which boardfit itself has"
    )
    assert "pip uninstall toy-target" in caught.value.remedy
    assert listed("cpu:")[:2] == (False, caught.value.message)


def test_two_plug_ins_must_not_have_one_scheme(install: Install) -> None:
    install("one-target", module="toy_one")
    install("two-target", module="toy_two")
    with pytest.raises(
        ConfigurationError, match=r"claims targets toy:\.\.\., which (one|two)-target 1.2 brings, too"
    ):
        model_format("toy:one")
    assert [target.available for target in list_targets() if target.url == "toy:"] == [False, False]


def test_a_scheme_must_be_one_and_a_format_known(install: Install) -> None:
    install(scheme="My Board", module="toy_name")
    with pytest.raises(ConfigurationError, match="no scheme of a URL"):
        open_target("My Board:one")
    install("odd-target", GOOD.replace("tflite", "uf2"), scheme="odd", module="toy_odd")
    with pytest.raises(BoardfitError, match="takes 'uf2' files") as caught:
        model_format("odd:one")
    assert "toy_odd.model_format must give one of tflite, onnx" in caught.value.remedy


def test_the_page_that_remedies_name_exists() -> None:
    assert (Path(__file__).parents[2] / PAGE).is_file()
