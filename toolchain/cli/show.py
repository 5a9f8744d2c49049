"""How each outcome is shown: tables for people, or one JSON document with the same facts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from toolchain.cli.console import print_json, print_table, stdout
from toolchain.units import BUDGET_METRICS, format_value, plain_metric

if TYPE_CHECKING:  # the workflow takes seconds to import (torch), and `boardfit --help` needs none of it
    from profilers.calibrate import Calibration
    from profilers.predicted import KindError
    from targets.mcu.find import Attached
    from targets.mcu.flash.base import FlashReport
    from targets.session import Target
    from toolchain.errors import InfeasibleError
    from toolchain.export.verify import Comparison
    from toolchain.measurement import Stack
    from toolchain.workflow.bench import BenchOutcome
    from toolchain.workflow.binas import Selection
    from toolchain.workflow.calibrate import CalibrateOutcome
    from toolchain.workflow.deploy import DeployOutcome, UndoOutcome
    from toolchain.workflow.doctor import Check
    from toolchain.workflow.export import CProject, ExportOutcome
    from toolchain.workflow.profile import ProfileOutcome
    from toolchain.workflow.run import RunOutcome
    from toolchain.workflow.search import SearchOutcome, TargetPrices


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
    out = stdout()
    out.print(f"{board}: {report.bytes:,} bytes by {report.back_end} in {report.seconds:.1f} s, {verified}")
    if not report.verified and report.log:
        out.print(report.log[-1])


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
    stdout().print(f"{_count(errors, 'error')}, {_count(warnings, 'warning')}")


def profile(outcome: ProfileOutcome, as_json: bool) -> None:
    """What was measured on each target, and how well sums predict whole networks."""
    if as_json:
        print_json("profile", _profile_json(outcome))
        return
    out = stdout()
    for found in outcome.targets:
        if len(outcome.targets) > 1:
            out.print(f"{found.name}, {found.url}", style="bold")
        report = found.operators
        out.print(f"table {outcome.table}: stack {found.stack.fingerprint} ({found.stack.label})")
        out.print(
            f"operators: {report.measured} measured, {report.skipped} there already, {len(report.failed)} failed, "
            f"{report.unstable} unstable, in {report.seconds:.1f} s"
        )
        if found.predicted:
            out.print(
                f"{found.predicted} of {found.space} operators of this space are not measured: their cost is predicted"
            )
            for kind, error in found.kinds.items():
                out.print(f"  {kind_text(kind, error)}")
        if found.slow:
            out.print(
                f"{_count(found.slow, 'operator')} measured while the machine was slow, and corrected by the anchor; "
                "`boardfit profile --retry` measures again"
            )
        for signature, reason in found.failures:
            out.print(f"  failed: {signature}: {reason}")
        if found.calibration is not None:
            out.print(calibration_text(found.calibration))
        _note(found.note)


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
            f": on {_count(calibration.n_held_out, 'network')} mean error {calibration.mape:.2f} %, Spearman {rank}"
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
        f"  on {_count(calibration.n_held_out, 'network')} not in the fit ({calibration.method}): "
        f"mean error {calibration.mape:.1f} %, within 10 %: {100 * calibration.share_within_10:.0f} %, "
        f"Spearman {rank} [{calibration.evidence.value}]"
        + ("\n  weak: " + WEAK if calibration.scale == 0 or calibration.spearman < WEAK_SPEARMAN else "")
    )


def search(outcome: SearchOutcome, as_json: bool) -> None:
    """The network, block by block, and its costs against the budgets."""
    if as_json:
        print_json("search", _search_json(outcome))
        return
    blocks = [
        (r.name, r.candidate, _shape(r.input), _shape(r.output), f"{r.params:,}", f"{r.macs:,}")
        for r in outcome.rows
    ]
    print_table(
        f"Network found by {outcome.method}"
        + (" (nothing changed: the earlier result)" if outcome.reused else ""),
        ("block", "choice", "in", "out", "params|", "MACs|"),
        blocks,
    )
    limits = {b.metric: b.bound for b in outcome.budgets}
    rows = []
    for metric, value in sorted(outcome.predicted.items(), key=_rank):
        bound = limits.get(metric)
        checked = outcome.exact.get(metric)
        rows.append(
            (
                metric,
                "-" if bound is None else format_value(metric, bound),
                format_value(metric, value),
                "-" if bound is None else f"{100 * (1 - value / bound):+.1f} %",
                "-" if checked is None else format_value(metric, checked),
                outcome.evidence.get(metric, ""),
            )
        )
    print_table(
        "Costs before training",
        ("metric", "budget|", "by table|", "left|", "by graph|", "evidence of table"),
        rows,
    )
    out = stdout()
    out.print(
        f"validation accuracy with shared weights {100 * outcome.score:.1f} %, "
        f"{_count(outcome.evaluations, 'network')} evaluated, {outcome.seconds:.0f} s, seed {outcome.seed}"
        + (", repaired to keep the budgets" if outcome.repaired else "")
    )
    _notes(outcome.targets)
    if outcome.selection is not None:
        _selection(outcome.selection, [b.metric for b in outcome.budgets])
        return
    for text, score in outcome.alternatives:
        out.print(f"  also within budgets: {text} ({100 * score:.1f} %)")
    if outcome.method == "connas" and outcome.alternatives:
        out.print("  (the choice is by validation loss, not by this accuracy)")


def _selection(found: Selection, budgeted: Sequence[str]) -> None:
    """What exact selection adds: the certificate, what more of a budget buys, the next best, what pays."""
    out = stdout()
    proof = {
        "bound": "proved by the bound of its multipliers",
        "search": "proved by exhausting what the bounds leave",
        "open": "not proved",
    }[found.how]
    error = f" ± {100 * found.predicted_error:.2f}" if found.predicted_error else ""
    out.print(
        f"predicted accuracy {100 * found.predicted_accuracy:.2f} %{error}; optimum of the model "
        f"{100 * found.optimum:.2f} %, bound {100 * found.bound:.2f} %, gap {100 * found.gap:.2f}: {proof}; "
        f"{found.arcs:,} arcs solved in {found.milliseconds:.1f} ms"
    )
    for network in found.refused[:_SHOWN]:
        out.print(f"  better by the model, refused by the exact check: {network.text} ({network.refused})")
    if len(found.refused) > _SHOWN:
        out.print(f"  and {_count(len(found.refused) - _SHOWN, 'more network')} refused")
    out.print()
    if found.worth:
        print_table(
            "What more of a budget buys (predicted accuracy, percentage points)",
            ("budget", "searched under|", "shadow price|", "10 % more|", "buys|"),
            [
                (
                    w.metric,
                    format_value(w.metric, w.bound),
                    _price(w.metric, w.bound, w.price),
                    format_value(w.metric, w.more),
                    f"{100 * w.gain:+.2f}",
                )
                for w in found.worth
            ],
        )
    if found.alternatives:
        metrics = [m for m in found.alternatives[0].costs if m in budgeted]
        print_table(
            "Next best within the budgets by the model",
            ("predicted|", "shared weights|", *(f"{metric}|" for metric in metrics), "network"),
            [
                (
                    f"{100 * a.accuracy:.2f} %",
                    "-" if a.measured is None else f"{100 * a.measured:.1f} %",
                    *(format_value(metric, a.costs[metric]) for metric in metrics),
                    a.text,
                )
                for a in found.alternatives
            ],
        )
    if found.effects:
        print_table(
            f"What design choices add (percentage points, mean over blocks; {found.contribution_samples:,} samples)",
            ("design choice", "adds|", "standard error|"),
            [(what, f"{100 * value:+.2f}", f"{100 * error:.2f}") for what, value, error in found.effects],
        )
    rank = (
        "" if math.isnan(found.kendall) else f": Kendall {found.kendall:.2f}, Spearman {found.spearman:.2f}"
    )
    out.print(f"predicted against measured accuracy on {_count(found.ranked, 'random network')}{rank}")
    out.print(f"Pareto front of accuracy and {found.front_metric}: {_count(found.front_size, 'network')}")
    for path in found.plots:
        out.print(f"  drawn: {path}")
    if found.note:
        out.print(found.note)


_SHOWN = 3  # networks that the exact check refused; --json has all
_UNITS = (
    ("_us", (("ms", 1e3), ("us", 1.0))),
    ("_bytes", (("kB", 1e3), ("B", 1.0))),
    ("_uj", (("mJ", 1e3), ("uJ", 1.0))),
    ("", (("million", 1e6), ("thousand", 1e3), ("unit", 1.0))),
)


def _price(metric: str, bound: float, price: float) -> str:
    """A shadow price in percentage points per unit that people think in."""
    units = next(units for suffix, units in _UNITS if metric.endswith(suffix))
    unit, size = next((pair for pair in units if bound >= pair[1]), units[-1])
    return "0" if price == 0 else f"{100 * price * size:.3g} per {unit}"


def infeasible(error: InfeasibleError, nearest: str, as_json: bool) -> None:
    """What is possible instead: the least values, the budgets that bind, and the nearest design.

    Args:
        nearest: `error.nearest` as people read it; empty when there is none.
    """
    if as_json:
        print_json(
            "infeasible",
            {
                "message": error.message,
                "remedy": error.remedy,
                "least": error.least,
                "binding": error.binding,
                "nearest": {"architecture": error.nearest, "text": nearest, "costs": error.nearest_costs},
            },
        )
        return
    rows = [
        (
            metric,
            format_value(metric, value),
            format_value(metric, error.nearest_costs[metric]) if metric in error.nearest_costs else "-",
            "binds" if metric in error.binding else "-",
        )
        for metric, value in sorted(error.least.items(), key=_rank)
    ]
    if rows:
        print_table(
            "What is possible",
            ("metric", "least in the space|", "nearest design|", "its budget"),
            rows,
            notes=f"nearest design: {nearest}" if nearest else "",
        )


def export(outcome: ExportOutcome, as_json: bool, c_project: CProject | None = None) -> None:
    """Files and comparisons; and the C project, where one was written."""
    if as_json:
        more = {} if c_project is None else {"c_project": asdict(c_project)}
        print_json("export", {**_export_json(outcome), **more})
        return
    title = f"Files in {outcome.folder}" + (" (nothing changed: the earlier files)" if outcome.reused else "")
    print_table(
        title, ("file", "bytes|"), [(name, f"{size:,}") for name, size in sorted(outcome.files.items())]
    )
    sizes = {row.samples for row in outcome.verification.rows if row.samples}
    print_table(
        "Verification on the test split"
        + "".join(f" ({_count(size, 'sample')})" for size in sizes if len(sizes) == 1),
        (
            "compared",
            "status",
            *(["samples|"] if len(sizes) > 1 else []),
            "differ|",
            "max error|",
            "top-1|",
            "accuracy|",
        ),
        [_verification_cells(row, len(sizes) > 1) for row in outcome.verification.rows],
    )
    for row in outcome.verification.rows:
        if row.reason:
            stdout().print(f"  {row.name}: {row.reason}")
    if c_project is not None:
        stdout().print(
            f"C project in {c_project.folder}: {_count(len(c_project.files), 'file')}, {c_project.isa} kernels; "
            "`make run` there compares its outputs with the reference's"
        )


def deploy(outcome: DeployOutcome, as_json: bool) -> None:
    """Predicted beside measured."""
    if as_json:
        print_json("deploy", _deploy_json(outcome))
        return
    out = stdout()
    _accuracy_table(outcome)
    print_table(
        "Predicted and measured: "
        + ", ".join(f"{one.model} on {one.stack.label}" for one in outcome.targets),
        ("metric", "budget|", "predicted|", "measured|", "error|", "measured as", "budget is"),
        [r.cells() for r in outcome.rows],
    )
    for one in outcome.targets:
        if len(outcome.targets) > 1:
            out.print(f"{one.name}, {one.url}", style="bold")
        if one.slowdown > 1.03:
            out.print(
                f"note: when this was measured the machine was {one.slowdown:.2f} times slower than in its best "
                "phase, to which predictions refer"
            )
        if "stack_bytes" in one.details:
            out.print(
                f"on the device: arena {int(one.details['arena_bytes']):,} B, "
                f"model {int(one.details['model_bytes']):,} B, "
                f"deepest stack {int(one.details['stack_bytes']):,} of "
                f"{int(one.details['stack_reserved_bytes']):,} B"
            )
        _note(one.note)
        _stack_note(one.stack)
        out.print(f"deployed in {one.place}")


def undo(outcome: UndoOutcome, as_json: bool) -> None:
    """Where the earlier network stands again."""
    if as_json:
        print_json("undo", {"places": dict(outcome.places)})
        return
    for name, place in outcome.places:
        stdout().print(f"{name}: what stood there before stands again in {place}")


def run(outcome: RunOutcome, as_json: bool) -> None:
    """The whole loop."""
    if as_json:
        print_json(
            "run",
            {
                "profile": _profile_json(outcome.profile),
                "search": _search_json(outcome.search),
                "export": _export_json(outcome.export),
                "deploy": _deploy_json(outcome.deploy),
            },
        )
        return
    profile(outcome.profile, False)
    search(outcome.search, False)
    export(outcome.export, False)
    deploy(outcome.deploy, False)


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
    _note(outcome.note)
    _stack_note(outcome.stack)


_TITLES = {"latency_us": "latency"}


def _rate(macs: int, value: float, metric: str) -> str:
    """Multiply-accumulates per microsecond, or per cycle."""
    if not macs or not value:
        return "-"
    return f"{macs / value:,.0f}" if metric.endswith("_us") else f"{macs / value:.3f}"


def _note(text: str) -> None:
    """What every figure above must be read with."""
    if text:
        stdout().print(f"note: {text}")


def _notes(targets: Sequence[TargetPrices]) -> None:
    """What the prices on each target must be read with; named, where there are several targets."""
    for one in targets:
        _note(one.note and (f"{one.name}: " * (len(targets) > 1) + one.note))


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
    out = stdout()
    out.print(
        f"timing model {found.model}: k={found.k:.3f}, a={found.a:g}, from {_count(found.layers, 'layer')} on "
        f"{found.taken_on}; layers left out are off by {100 * found.median_error:.1f} % (median), "
        f"{100 * found.worst_error:.1f} % at worst; band ±{100 * found.band:.0f} %"
    )
    out.print(
        f"kept in {outcome.path}: virtual:{found.board} uses it from now on; run `boardfit profile` again"
    )


def _unstable(flag: bool) -> str:
    return " (unstable)" if flag else ""


def _accuracy_table(outcome: DeployOutcome) -> None:
    rows = [(f"{name}, reference", f"{100 * value:.2f} %") for name, value in outcome.accuracy_before.items()]
    notes = []
    for one in outcome.targets:
        where = "target" if len(outcome.targets) == 1 else one.name
        equal = "every value equal" if one.differing == 0 else f"top-1 agrees on {100 * one.agreement:.1f} %"
        rows.append((f"on {where} ({one.model})", f"{100 * one.accuracy:.2f} %"))
        notes.append(
            f"{where} against reference: {equal}, largest difference {one.max_difference:.3g}"
            + (" int8 steps" if one.differing is not None else "")
        )
    print_table(
        f"Accuracy on {outcome.targets[0].samples} test samples",
        ("network", "accuracy|"),
        rows,
        notes="\n".join(notes),
    )


def _stack_note(stack: Stack) -> None:
    fields = ", ".join(f"{key} {value}" for key, value in stack.fields if key != "protocol")
    stdout().print(f"stack {stack.fingerprint}: {fields}")


def _rank(item: tuple[str, float]) -> int:
    """Metrics in the order of the budgets, whether a result is fresh or was read from a file."""
    known = [metric for metric, _ in BUDGET_METRICS.values()]
    plain = plain_metric(item[0])
    return known.index(plain) if plain in known else len(known)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _shape(shape: Sequence[int]) -> str:
    return "x".join(str(d) for d in shape)


def _verification_cells(row: Comparison, samples: bool) -> tuple[str, ...]:
    def number(value: float | int | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    return (
        row.name + (f"\n  {row.limit}" if row.limit else ""),
        row.status.upper() if row.status == "failed" else row.status,
        *([str(row.samples) if row.samples else "-"] if samples else []),
        number(row.differing, ","),
        number(row.max_error, ".2g"),
        "-" if row.agreement is None else f"{100 * row.agreement:.1f} %",
        "-" if row.accuracy is None else f"{100 * row.accuracy:.2f} %",
    )


def _profile_json(outcome: ProfileOutcome) -> dict[str, Any]:
    return {
        "table": outcome.table,
        "targets": [{**asdict(one), "stack": one.stack.as_dict()} for one in outcome.targets],
    }


def _search_json(outcome: SearchOutcome) -> dict[str, Any]:
    return {
        **asdict(outcome),
        "rows": [row._asdict() if hasattr(row, "_asdict") else asdict(row) for row in outcome.rows],
    }


def _export_json(outcome: ExportOutcome) -> dict[str, Any]:
    return {**asdict(outcome), "folder": str(outcome.folder), "verified": outcome.verification.ok}


def _deploy_json(outcome: DeployOutcome) -> dict[str, Any]:
    return {
        **asdict(outcome),
        "targets": [{**asdict(one), "stack": one.stack.as_dict()} for one in outcome.targets],
        "rows": [row.as_dict() for row in outcome.rows],
    }
