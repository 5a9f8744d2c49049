"""How devices are shown: what is attached, what was written into one, what is missing, a fitted timing model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from toolchain.cli.console import print_json, print_prose, print_table
from toolchain.cli.show.words import count

if TYPE_CHECKING:
    from targets.mcu.find import Attached
    from targets.mcu.flash.base import FlashReport
    from targets.session import Target
    from toolchain.workflow.calibrate import CalibrateOutcome
    from toolchain.workflow.doctor import Check


def boards(targets: Sequence[Target], attached: Sequence[Attached], as_json: bool) -> None:
    """The list of targets, and what is attached, whether a target or not."""
    if as_json:
        found = {"targets": [asdict(t) for t in targets], "attached": [asdict(one) for one in attached]}
        print_json("boards", found)
        return
    rows = [
        (t.url, "yes" if t.available else "no", "\n".join(filter(None, (t.description, t.notes))))
        for t in targets
    ]
    print_table("Targets", ("url", "here", "what"), rows)
    devices = [
        (
            one.kind,
            one.guess or ("?" if one.possible else ""),
            one.id,
            ", ".join(one.ports),
            one.drive,
            one.why,
        )
        for one in attached
    ]
    if devices:
        print_table("Attached", ("what", "board", "id", "port", "drive", "guessed by"), devices)


def flash(board: str, report: FlashReport, as_json: bool) -> None:
    """What was written, and whether it was read back."""
    if as_json:
        print_json("flash", {"board": board, **asdict(report)})
        return
    verified = "verified" if report.verified else "not verified"
    print_prose(f"{board}: {report.bytes:,} bytes by {report.back_end} in {report.seconds:.1f} s, {verified}")
    if not report.verified and report.log:
        print_prose(report.log[-1])


_EXTRA = "pip install 'boardfit["


def doctor(checks: Sequence[Check], as_json: bool) -> None:
    """What was looked at, problems with their remedy."""
    if as_json:
        print_json("doctor", {"checks": [asdict(check) for check in checks]})
        return
    rows = [
        (c.status, c.name, c.detail + (f"\nremedy: {c.remedy}" if c.remedy and c.status != "ok" else ""))
        for c in checks
    ]
    print_table("Doctor", ("status", "what", "found"), rows)
    errors, warnings = (sum(c.status == kind for c in checks) for kind in ("error", "warning"))
    print_prose(f"{count(errors, 'error')}, {count(warnings, 'warning')}")
    extras = [c.remedy[len(_EXTRA) : -2] for c in checks if c.status != "ok" and c.remedy.startswith(_EXTRA)]
    if len(set(extras)) > 1:
        print_prose(f"all missing packages at once: {_EXTRA}{','.join(dict.fromkeys(extras))}]'")


def calibrate(outcome: CalibrateOutcome, as_json: bool) -> None:
    """Layers on both boards, and the factor between them."""
    found = outcome.calibration
    if as_json:
        print_json("calibrate", {**asdict(outcome), "band": found.band})
        return
    print_table(
        f"{found.board}: layers on the board [cycles_measured] and on the virtual board before [cycles_estimated]",
        ("layer", "board|", "virtual board|"),
        [
            (layer.name, f"{layer.measured_cycles:,.0f}", f"{layer.estimated_cycles:,.0f}")
            for layer in outcome.layers
        ],
    )
    print_prose(
        f"timing model {found.model}: k={found.k:.3f}, a={found.a:g}, from {count(found.layers, 'layer')} on "
        f"{found.taken_on}; layers left out are off by {100 * found.median_error:.1f} % (median), "
        f"{100 * found.worst_error:.1f} % at worst; band ±{100 * found.band:.0f} %"
    )
    print_prose(
        f"kept in {outcome.path}: virtual:{found.board} uses it from now on; run `boardfit profile` again"
    )
