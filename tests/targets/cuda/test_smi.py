"""nvidia-smi's answers, whole, odd and missing. The program itself is not needed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from targets.cuda import smi

H200 = (
    "NVIDIA H200, GPU-8fe3a97d-51f6-a669-0d80-b4530b81b816, 550.90.12, Enabled, P0, 1980, 3201, 1980, 41, "
    "121.53, 700.00, 0x0000000000000000, 0x0000000000000000\n"
)


def answers(*lines: tuple[int, str]) -> tuple[smi.Run, list[Sequence[str]]]:
    """A program that gives these answers, one after the other, and what it was asked."""
    asked: list[Sequence[str]] = []
    rest = list(lines)

    def run(words: Sequence[str]) -> tuple[int, str]:
        asked.append(words)
        return rest.pop(0)

    return run, asked


def test_a_whole_answer() -> None:
    run, asked = answers((0, H200))
    state = smi.query("GPU-8fe3", run)
    assert state["name"] == "NVIDIA H200"
    assert state["power.draw"] == "121.53"
    assert set(state) == set(smi.FIELDS)
    assert smi.held_back(state) == ()
    assert smi.details(state) == {
        "power_state": "P0", "clock_mhz": "1980", "memory_clock_mhz": "3201", "temperature_c": "41",
        "power_w": "121.53",
    }  # fmt: skip
    assert asked == [
        [
            "nvidia-smi",
            "--id=GPU-8fe3",
            f"--query-gpu={','.join(smi.FIELDS)}",
            "--format=csv,noheader,nounits",
        ]
    ]


def test_an_old_driver_is_asked_without_the_fields_that_it_does_not_know() -> None:
    known = [name for name in smi.FIELDS if name != "clocks_event_reasons.active"]
    line = ", ".join("0x04" if name.endswith("active") else "1" for name in known)
    run, asked = answers(
        (2, 'Field "clocks_event_reasons.active" is not a valid field to query.\n\n'), (0, line + "\n")
    )
    state = smi.query("0", run)
    assert smi.held_back(state) == ("power limit",)
    assert set(state) == set(known)
    assert len(asked) == 2


def test_a_driver_that_knows_nothing_ends_the_questions() -> None:
    said = "".join(f'Field "{name}" is not a valid field to query.\n' for name in smi.FIELDS)
    run, asked = answers((2, said))
    assert smi.query("0", run) == {"unknown": "nvidia-smi knows none of the fields"}
    assert len(asked) == 1


@pytest.mark.parametrize(
    "odd", ["[N/A]", "N/A", "[Not Supported]", "[Unknown Error]", "[GPU requires reset]", ""]
)
def test_what_the_gpu_does_not_tell_is_absent(odd: str) -> None:
    state = smi.parse(("name", "pstate", "clocks.sm"), f"NVIDIA GeForce RTX 3080, {odd}, 210\n")
    assert state == {"name": "NVIDIA GeForce RTX 3080", "clocks.sm": "210"}
    assert smi.details(state) == {"clock_mhz": "210"}


@pytest.mark.parametrize(
    ("status", "said", "why"),
    [
        (127, "nvidia-smi is not installed", "nvidia-smi is not installed"),
        (9, "NVIDIA-SMI has failed because it couldn't communicate with the driver.\nMore", "couldn't communicate"),
        (6, "No devices were found\n", "No devices were found"),
        (1, "", "ends with status 1"),
        (0, "", "answers for 0 GPUs"),
        (0, H200 + H200, "answers for 2 GPUs"),
        (0, "one, two\n", "answers 2 fields instead of"),
    ],
)  # fmt: skip
def test_no_answer_is_said_and_harms_nothing(status: int, said: str, why: str) -> None:
    run, _ = answers((status, said))
    state = smi.query("0", run)
    assert why in state["unknown"]
    assert smi.held_back(state) == ()
    assert why in smi.details(state)["gpu_state"]


@pytest.mark.parametrize(
    ("bits", "reasons"),
    [
        ("0x0000000000000001", ()),  # idle
        ("0x0000000000000002", ()),  # a clock that was chosen
        ("0x0000000000000024", ("power limit", "software thermal slowdown")),
        ("0x00000000000000C8", ("hardware slowdown", "hardware thermal slowdown", "power brake")),
        ("rubbish", ()),
    ],
)
def test_bits_of_what_holds_it_back(bits: str, reasons: tuple[str, ...]) -> None:
    for name in smi.REASONS:
        assert smi.held_back({name: bits}) == reasons


def test_the_state_is_asked_once_a_second() -> None:
    run, asked = answers((0, H200), (0, H200.replace("P0", "P2")))
    now = [100.0]
    watch = smi.Watch("0", run, lambda: now[0])
    assert watch.state()["pstate"] == "P0"
    now[0] = 100.9
    assert watch.state()["pstate"] == "P0"
    now[0] = 101.0
    assert watch.state()["pstate"] == "P2"
    assert len(asked) == 2


def test_a_missing_program_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert smi.query("0") == {"unknown": "nvidia-smi is not installed"}
