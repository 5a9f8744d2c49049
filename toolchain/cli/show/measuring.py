"""How measurements are shown: the profile of a space, its calibration, the costs of one model file."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from toolchain.cli.console import print_json, print_prose, print_table, stdout
from toolchain.cli.show.words import count, note, stack_note
from toolchain.units import format_value

if TYPE_CHECKING:
    from profilers.calibrate import Calibration
    from profilers.predicted import KindError
    from toolchain.workflow.bench import BenchOutcome, DirectCost
    from toolchain.workflow.profile import ProfileOutcome


def profile(outcome: ProfileOutcome, as_json: bool) -> None:
    """What was measured on each target, and how well sums predict whole networks."""
    if as_json:
        print_json("profile", profile_json(outcome))
        return
    for found in outcome.targets:
        if len(outcome.targets) > 1:
            stdout().print(f"{found.name}, {found.url}", style="bold")
        report = found.operators
        print_prose(f"table {outcome.table}: stack {found.stack.fingerprint} ({found.stack.label})")
        print_prose(
            f"operators: {report.measured} measured, {report.skipped} there already, {len(report.failed)} failed, "
            f"{report.unstable} unstable, in {report.seconds:.1f} s"
        )
        if found.predicted:
            print_prose(
                f"{found.predicted} of {found.space} operators of this space are not measured: their cost is predicted"
            )
            for kind, error in found.kinds.items():
                print_prose(f"  {kind_text(kind, error)}")
        if found.slow:
            print_prose(
                f"{count(found.slow, 'operator')} measured while the machine was slow, and corrected by the anchor; "
                "`boardfit profile --retry` measures again"
            )
        if report.unstable:
            print_prose(
                f"unstable: {count(report.unstable, 'operator')} whose repeated times spread too far; they "
                "count as they are, `boardfit profile --retry` measures them again when the machine is quieter"
            )
        for signature, reason in found.failures:
            print_prose(f"  failed: {signature}: {reason}")
        if found.calibration is not None:
            print_prose(calibration_text(found.calibration))
        note(found.note)


def kind_text(kind: str, error: KindError) -> str:
    """How far predictions of a kind of operators are off."""
    return (
        f"{kind}: predicted from {error.operators} measured, off by {100 * error.error:.1f} %, "
        f"at worst {100 * error.worst:.0f} % (each left out in turn)"
    )


WEAK_SPEARMAN = 0.7  # below this, sums of operators hardly rank networks
WEAK = "do not trust predicted latencies; measure when the machine is quiet, with more profile.networks"


def calibration_text(calibration: Calibration) -> str:
    """How sums of operators predict networks that the fit has not seen."""
    rank = "-" if math.isnan(calibration.spearman) else f"{calibration.spearman:.3f}"
    if calibration.method == "measured constant":
        judged = (
            f": on {count(calibration.n_held_out, 'network')} mean error {calibration.mape:.2f} %, Spearman {rank}"
            if calibration.n_held_out
            else ""
        )
        return (
            f"{calibration.metric} of whole networks = the sum of their operators' own + {calibration.intercept:,.0f} "
            f"for the runtime, measured{judged} [{calibration.evidence.value}]"
        )
    sign = "-" if calibration.per_operator < 0 else "+"
    return (
        f"{calibration.metric} of whole networks = {calibration.intercept:.3g} + {calibration.scale:.3g} * sum "
        f"{sign} {abs(calibration.per_operator):.3g} * operators\n"
        f"  on {count(calibration.n_held_out, 'network')} not in the fit ({calibration.method}): "
        f"mean error {calibration.mape:.1f} %, within 10 %: {100 * calibration.share_within_10:.0f} %, "
        f"Spearman {rank} [{calibration.evidence.value}]"
        + ("\n  weak: " + WEAK if calibration.scale == 0 or calibration.spearman < WEAK_SPEARMAN else "")
    )


def bench(outcome: BenchOutcome, as_json: bool) -> None:
    """Per-operator and whole-network cost of a model file."""
    if as_json:
        values = asdict(outcome) | {"stack": outcome.stack.as_dict(), "sum": outcome.sum}
        print_json("bench", values)
        return
    total = sum(cost.measurement.value for cost in outcome.operators if cost.measurement) or math.nan
    whole = outcome.whole
    rows = []
    for index, cost in enumerate(outcome.operators):
        if cost.measurement is None:
            rows.append((str(index), cost.signature, f"{cost.macs:,}", "-", "-", "-", cost.failure))
            continue
        value, metric = cost.measurement.value, cost.measurement.metric
        rate = _rate(cost.macs, value, metric)
        flag = "unstable" if cost.measurement.unstable else ""
        if cost.direct is not None:
            flag = f"direct: {format_value(metric, cost.direct.value)}"
        rows.append(
            (
                str(index), cost.signature, f"{cost.macs:,}", format_value(metric, value),
                f"{100 * value / total:.1f} %", rate, flag,
            )
        )  # fmt: skip
    unit = "us" if whole.metric.endswith("_us") else whole.metric.removesuffix("s")
    print_table(
        f"{outcome.model} ({outcome.dtype}): operators measured alone [{whole.evidence.value}]",
        (
            "",
            "operator",
            "MACs|",
            f"{_TITLES.get(whole.metric, whole.metric)}|",
            "share|",
            f"MACs/{unit}|",
            "",
        ),
        rows,
    )
    summary = [
        (
            f"whole network, {_TITLES.get(whole.metric, whole.metric)} [{whole.evidence.value}]",
            format_value(whole.metric, whole.value) + _unstable(whole.unstable),
        )
    ]
    if outcome.direct is not None:
        summary += _compared(outcome, outcome.direct)
    if outcome.sum is not None:
        summary.append(
            (
                "sum of the operators",
                f"{format_value(whole.metric, outcome.sum)} ({outcome.sum / whole.value:.2f} of the whole)",
            )
        )
    if outcome.time is not None:
        estimated = "estimated" if "estimated" in outcome.time.evidence.value else "measured"
        clock = int(outcome.time.details["clock_hz"]) / 1e6
        summary.append(
            (f"latency, {estimated}", f"{format_value('latency_us', outcome.time.value)} at {clock:g} MHz")
        )
    summary.append((f"MACs per {unit}", _rate(outcome.computed["macs"], whole.value, whole.metric)))
    summary += [(name, format_value(name, value)) for name, value in outcome.computed.items()]
    print_table(
        "Whole network; bytes, MACs and params are computed"
        + (
            ", flash and RAM also counted by the device" if "ram_bytes" in whole.details else " from the file"
        ),
        ("", "value|"),
        summary,
    )
    note(outcome.note)
    stack_note(outcome.stack)


def _compared(outcome: BenchOutcome, direct: DirectCost) -> list[tuple[str, str]]:
    """What the chosen plan gains over direct convolutions, and what it takes."""
    chosen = sum(cost.direct is not None for cost in outcome.operators)
    rows = [("layers by Winograd's algorithm", f"{chosen} of {len(outcome.operators)}")]
    if direct.whole is not None:
        gain = 1 - outcome.whole.value / direct.whole.value
        value = format_value(direct.whole.metric, direct.whole.value)
        rows.append(("all layers direct", f"{value} (the plan saves {100 * gain:.1f} %)"))
    for metric, there in (("flash_bytes", direct.flash_bytes), ("ram_bytes", direct.ram_bytes)):
        more = outcome.computed[metric] - there
        rows.append(
            (f"{metric}, all layers direct", f"{format_value(metric, there)} (the plan: {more:+,} bytes)")
        )
    return rows


_TITLES = {"latency_us": "latency"}


def _rate(macs: int, value: float, metric: str) -> str:
    """Multiply-accumulates per microsecond, or per cycle."""
    if not macs or not value:
        return "-"
    return f"{macs / value:,.0f}" if metric.endswith("_us") else f"{macs / value:.3f}"


def _unstable(flag: bool) -> str:
    return " (unstable)" if flag else ""


def profile_json(outcome: ProfileOutcome) -> dict[str, Any]:
    return {
        "table": outcome.table,
        "targets": [{**asdict(one), "stack": one.stack.as_dict()} for one in outcome.targets],
    }
