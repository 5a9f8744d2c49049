"""How the rounds of the loop are shown: what was predicted, what was measured, and what the cost model learnt."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from toolchain.cli.console import print_prose, print_table
from toolchain.cli.show.words import count
from toolchain.units import format_value

if TYPE_CHECKING:
    from profilers.correct import Correction
    from toolchain.workflow.rounds import RoundsOutcome


def rounds(outcome: RoundsOutcome) -> None:
    """Each round's candidates, predicted beside measured, and what the cost model learnt from them."""
    from profilers.correct import moved_text

    lines = [
        (
            str(one.round) if network.chosen and not number else "",
            metric,
            format_value(metric, value),
            format_value(metric, network.measured[metric]) if metric in network.measured else "not measured",
            f"{network.error_percent[metric]:+.1f} %" if metric in network.error_percent else "-",
            network.evidence.get(metric, "-"),
            "" if number else ("chosen: " if network.chosen else "") + network.text,
        )
        for one in outcome.rounds
        for network in one.candidates
        for number, (metric, value) in enumerate(network.predicted.items())
    ]
    if lines:
        print_table(
            "Candidates measured as whole networks",
            ("round", "metric", "predicted|", "measured|", "error|", "evidence", "network"),
            lines,
        )
    for one in outcome.rounds:
        for metric, names in one.again.items():
            moved = moved_text(one.correction.get(metric, {}).get("rows", ()))
            print_prose(
                f"round {one.round}: {count(len(names), 'operator')} measured again for {metric}, "
                f"moved: {moved or 'none'}"
            )
        for metric, found in one.correction.items():
            networks = count(len(found["networks"]), "network")
            print_prose(
                f"after round {one.round} ({one.why}): {metric} x {found['factor']:.4f} "
                f"(before x {found['before']:.4f})"
            )
            print_prose(
                f"  mean error of {networks} {found['error_before_percent']:.2f} % -> "
                f"{found['error_after_percent']:.2f} %"
            )
    print_prose(f"{'settled' if outcome.settled else 'not settled'}: {outcome.why}")


def rounds_json(outcome: RoundsOutcome) -> dict[str, Any]:
    """As results/rounds.json has them."""
    found = asdict(outcome)
    found.pop("search")
    return found


def correction_text(found: Correction) -> str:
    """What a correction does, and what it rests on."""
    from profilers.correct import moved_text

    return (
        f"x {found.factor:.4f} (before x {found.before:.4f}) from {len(found.networks)} networks near the optimum, "
        f"round {found.round}: mean error {found.error_before_percent:.2f} % -> {found.error_after_percent:.2f} %"
        + (f"; measured again: {moved}" if (moved := moved_text(found.rows)) else "")
    )
