"""Words and lines that several outcomes share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from toolchain.cli.console import print_prose
from toolchain.units import BUDGET_METRICS, plain_metric

if TYPE_CHECKING:
    from toolchain.measurement import Stack


def rank(item: tuple[str, float]) -> int:
    """Metrics in the order of the budgets, whether a result is fresh or was read from a file."""
    known = [metric for metric, _ in BUDGET_METRICS.values()]
    plain = plain_metric(item[0])
    return known.index(plain) if plain in known else len(known)


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def shape(shape: Sequence[int]) -> str:
    return "x".join(str(d) for d in shape)


def note(text: str) -> None:
    """What every figure above must be read with."""
    if text:
        print_prose(f"note: {text}")


def stack_note(stack: Stack) -> None:
    print_prose(f"stack {stack.fingerprint} ({stack.label}): its {len(stack.fields)} fields are in --json")


def again(why: str, reused: bool, what: str) -> str:
    """Why a stage was done again, or that it was not; for the end of a title."""
    if reused:
        return f" (nothing changed: the earlier {what})"
    return "" if why in ("", "first time") else f" (again: {why})"


def plan_text(plan: Mapping[str, Sequence[int]]) -> str:
    """What a program's plan chose beside the usual way; empty where it is the usual way (`Plan.as_dict`)."""
    words = []
    if layers := len(plan.get("winograd", ())):
        words.append(f"{count(layers, 'convolution')} by Winograd's algorithm")
    if patches := plan.get("patches"):
        words.append(f"the first {count(patches[0], 'operator')} in patches of {count(patches[1], 'row')}")
    return ", ".join(words)
