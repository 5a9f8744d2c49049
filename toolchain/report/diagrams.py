"""The diagrams of a report: each takes parts of the document and gives an `<svg>` element, or "" where there is
nothing to draw. Series differ in marker or hatch as well as in colour.
"""

from __future__ import annotations

from collections.abc import Sequence

from toolchain.report.document_search import Course, Effect, Network, Rounds
from toolchain.report.document_target import Memory, Table
from toolchain.report.drawing import CHOSEN, COLOURS, GREY, INK, PAPER, figure, rim, scaled, svg
from toolchain.report.number import Number, finite, shown
from toolchain.search.front import undominated
from toolchain.units import format_value, plain_metric

Points = list[tuple[float, float, str]]


def front(course: Course, metric: str, budget: Number | None, name: str) -> str:
    """Networks in the plane of one predicted cost and accuracy, the chosen one marked, measured costs beside."""
    known = [
        n
        for n in course.networks
        if n.score is not None and n.score.value is not None and finite(_cost(n, metric)) is not None
    ]
    if not known:
        return ""
    unit, scale = scaled(metric, max(_cost(n, metric) for n in known))
    points = [(_cost(n, metric) / scale, _score(n)) for n in known]
    with figure(4.1) as drawn:
        axes = drawn.add_subplot()
        line = (
            [(x / scale, 100 * y) for x, y in course.front]
            if course.front_metric == metric
            else [points[index] for index in undominated(points)]
        )
        if len(line) > 1:
            axes.step(
                *zip(*line, strict=True), where="post", color=COLOURS[0], linewidth=1.3, alpha=0.7, zorder=2,
                label="Pareto front",
            )  # fmt: skip
        tips: dict[str, list[str]] = {}
        others = [n for n in known if not n.chosen]
        if others:
            marks = axes.scatter(
                [_cost(n, metric) / scale for n in others], [_score(n) for n in others], s=26, marker="o",
                facecolor=PAPER, edgecolor=COLOURS[0], linewidth=1.3, zorder=3, label="network, predicted",
            )  # fmt: skip
            marks.set_gid("others")
            tips["others"] = [_tip(n, metric) for n in others]
        measured = [n for n in known if n.measured.get(metric) and n.measured[metric].value is not None]
        for n in measured:
            axes.plot(
                [_cost(n, metric) / scale, (n.measured[metric].value or 0) / scale], [_score(n)] * 2,
                color=GREY, linewidth=0.9, zorder=3,
            )  # fmt: skip
        for n in (n for n in known if n.chosen):
            marks = axes.scatter(
                [_cost(n, metric) / scale], [_score(n)], s=190, marker="*", color=CHOSEN, edgecolor=INK,
                linewidth=0.7, zorder=4, label="chosen, predicted",
            )  # fmt: skip
            marks.set_gid("chosen")
            tips["chosen"] = [_tip(n, metric)]
        if measured:
            marks = axes.scatter(
                [(n.measured[metric].value or 0) / scale for n in measured], [_score(n) for n in measured],
                s=42, marker="D", color=COLOURS[2], edgecolor=INK, linewidth=0.6, zorder=5, label="on the target",
            )  # fmt: skip
            marks.set_gid("measured")
            tips["measured"] = [_tip(n, metric) for n in measured]
        if budget is not None and budget.value is not None:
            axes.axvline(budget.value / scale, color=GREY, linestyle="--", linewidth=1.3, label="budget")
        rim(axes)
        axes.set_xlabel(_axis(metric, unit))
        axes.set_ylabel("accuracy [%]")
        _legend(drawn)
        return svg(drawn, name, f"Accuracy and {metric} of {len(known)} networks", tips)


def memory(found: Memory, name: str) -> str:
    """Which bytes of the arena are taken at which step; scratch memory is hatched."""
    if not found.places:
        return ""
    from matplotlib.patches import Rectangle

    unit, scale = scaled("_bytes", found.arena.value or 1.0)
    with figure(3.9) as drawn:
        axes = drawn.add_subplot()
        tips: dict[str, list[str]] = {}
        tensors = 0
        for index, place in enumerate(found.places):
            colour = COLOURS[1] if place.scratch else (COLOURS[4], COLOURS[0])[tensors % 2]
            tensors += not place.scratch
            patch = Rectangle(
                (place.first - 0.5, place.offset / scale), place.last - place.first + 1, place.size / scale,
                facecolor=colour, alpha=0.75, edgecolor=INK, linewidth=0.6, hatch="////" if place.scratch else "",
                gid=f"place{index}", zorder=2,
            )  # fmt: skip
            axes.add_patch(patch)
            steps = f"step {place.first}" + (f" to {place.last}" if place.last > place.first else "")
            what = "scratch memory" if place.scratch else f"tensor {place.name}"
            maker = "input" if place.first == 0 else found.steps[place.first - 1]
            tips[f"place{index}"] = [f"{what}: {place.size:,} B at {place.offset:,}, {steps}\n{maker}"]
        arena = (found.arena.value or 0) / scale
        axes.axhline(arena, color=GREY, linestyle="--", linewidth=1.3)
        axes.set_xlim(-0.7, len(found.steps) + 0.7)
        axes.set_ylim(0, arena * 1.12)
        axes.locator_params(axis="x", integer=True)
        axes.text(
            len(found.steps) + 0.5, arena * 1.02, f"arena {shown(found.arena)}", ha="right", va="bottom"
        )
        axes.set_xlabel("step (operator)")
        axes.set_ylabel(f"place in the arena [{unit}]")
        axes.grid(axis="x", visible=False)
        handles = [
            Rectangle((0, 0), 1, 1, facecolor=COLOURS[4], alpha=0.75, edgecolor=INK, label="activations")
        ]
        if any(place.scratch for place in found.places):
            handles.append(
                Rectangle((0, 0), 1, 1, facecolor=COLOURS[1], alpha=0.75, edgecolor=INK, hatch="////",
                          label="scratch memory")
            )  # fmt: skip
        drawn.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False)
        return svg(drawn, name, f"Memory over {len(found.steps)} steps", tips)


def course(found: Course, metric: str, budget: Number | None, name: str) -> str:
    """A gradient search by epochs: one budgeted metric of its networks, with the bound."""
    rows = [row for row in found.epochs if metric in row.costs]
    if not rows:
        return ""
    top = max(row.costs[metric][2] for row in rows)
    unit, scale = scaled(metric, top)
    x = [row.epoch + 1 for row in rows]
    low, middle, high = ([row.costs[metric][i] / scale for row in rows] for i in range(3))
    with figure(3.1) as drawn:
        axes = drawn.add_subplot()
        axes.fill_between(x, low, high, color=COLOURS[4], alpha=0.35, linewidth=0, label="range in the epoch")
        axes.plot(x, middle, color=COLOURS[0], linewidth=1.4, label="middle", zorder=3)
        dots = axes.scatter(x, middle, s=14, color=COLOURS[0], zorder=4)
        dots.set_gid("middle")
        tips = {
            "middle": [
                f"epoch {e}: {format_value(plain_metric(metric), m * scale)}, "
                f"{100 * row.kept:.0f} % of the steps within the budgets"
                for e, m, row in zip(x, middle, rows, strict=True)
            ]
        }
        if budget is not None and budget.value is not None:
            axes.axhline(budget.value / scale, color=GREY, linestyle="--", linewidth=1.3, label="budget")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("epoch")
        axes.set_ylabel(_axis(metric, unit))
        _legend(drawn)
        return svg(drawn, name, f"{metric} over {len(rows)} epochs", tips)


def learning(found: Course, name: str) -> str:
    """A gradient search by epochs: accuracy of the mixture and of the current network."""
    rows = [row for row in found.epochs if row.accuracy is not None]
    if not rows:
        return ""
    with figure(3.1) as drawn:
        axes = drawn.add_subplot()
        x, y = [row.epoch + 1 for row in rows], [100 * (row.accuracy or 0) for row in rows]
        axes.plot(x, y, color=COLOURS[0], linewidth=1.4, label="mixture of all networks")
        axes.scatter(x, y, s=14, color=COLOURS[0]).set_gid("mixture")
        tips = {"mixture": [f"epoch {e}: {a:.1f} %" for e, a in zip(x, y, strict=True)]}
        ends = [(r.epoch + 1, 100 * r.candidate) for r in rows if r.candidate is not None]
        if ends:
            axes.scatter(
                [e for e, _ in ends],
                [a for _, a in ends],
                s=30,
                marker="D",
                color=CHOSEN,
                label="network at the epoch's end",
            ).set_gid("ends")
            tips["ends"] = [f"epoch {e}: {a:.1f} %" for e, a in ends]
        axes.set_xlabel("epoch")
        axes.set_ylabel("validation accuracy [%]")
        _legend(drawn)
        return svg(drawn, name, f"Accuracy over {len(rows)} epochs", tips)


def samples(table: Table, name: str) -> str:
    """Whole networks: predicted against measured."""
    if not table.samples:
        return ""
    pairs = [(s.measured.value or 0.0, s.predicted.value or 0.0) for s in table.samples]
    unit, scale = scaled(table.metric, max(max(pair) for pair in pairs))
    with figure(3.6) as drawn:
        axes = drawn.add_subplot()
        x, y = [m / scale for m, _ in pairs], [p / scale for _, p in pairs]
        ends = [min(*x, *y), max(*x, *y)]
        axes.plot(ends, ends, color=GREY, linestyle="--", linewidth=1.2, label="equal")
        axes.scatter(
            x, y, s=30, facecolor=PAPER, edgecolor=COLOURS[0], linewidth=1.3, zorder=3, label="whole network"
        ).set_gid("samples")
        tips = {
            "samples": [
                f"{s.text}\npredicted {shown(s.predicted)}, on the target {shown(s.measured)}"
                for s in table.samples
            ]
        }
        rim(axes)
        plain = table.metric.rpartition("_")[0] or table.metric
        suffix = f" [{unit}]" if unit else ""
        axes.set_xlabel(f"{plain} on the target{suffix}")
        axes.set_ylabel(f"predicted{suffix}")
        _legend(drawn)
        return svg(drawn, name, f"{len(pairs)} whole networks, predicted and measured", tips)


def rounds(found: Rounds, metric: str, name: str) -> str:
    """The predictions' errors by round, with the tolerance."""
    points: Points = []
    for one in found.rounds:
        for network in one.networks:
            predicted, measured = network.predicted.get(metric), network.measured.get(metric)
            if predicted and measured and predicted.value is not None and measured.value:
                error = 100 * (predicted.value - measured.value) / measured.value
                tip = f"{network.text}\npredicted {shown(predicted)}, measured {shown(measured)}: {error:+.2f} %"
                points.append((float(one.round), error, tip))
    if not points:
        return ""
    with figure(2.9) as drawn:
        axes = drawn.add_subplot()
        tolerance = found.tolerance.get(metric)
        if tolerance is not None:
            axes.axhspan(-tolerance, tolerance, color=COLOURS[2], alpha=0.18, linewidth=0, label="tolerance")
        axes.axhline(0, color=GREY, linewidth=0.9)
        axes.scatter(
            [p[0] for p in points], [p[1] for p in points], s=34, color=COLOURS[0], edgecolor=INK, linewidth=0.5,
            zorder=3, label="network",
        ).set_gid("errors")  # fmt: skip
        axes.set_xticks(sorted({p[0] for p in points}))
        axes.margins(0.15, 0.15)
        axes.set_xlabel("round")
        axes.set_ylabel("error of the prediction [%]")
        _legend(drawn)
        return svg(drawn, name, f"Errors of predicted {metric} by round", {"errors": [p[2] for p in points]})


def effects(found: Sequence[Effect], name: str) -> str:
    """What properties of blocks add to the accuracy, with standard errors."""
    rows = [e for e in found if e.number.value is not None]
    if not rows:
        return ""
    with figure(1.1 + 0.42 * len(rows)) as drawn:
        axes = drawn.add_subplot()
        values = [100 * (e.number.value or 0) for e in rows]
        for index, (row, value) in enumerate(zip(rows, values, strict=True)):
            axes.barh(
                index, value, color=COLOURS[0 if value >= 0 else 1], edgecolor=INK, linewidth=0.5, height=0.62,
                hatch="" if value >= 0 else "///", gid=f"bar{index}",
                xerr=100 * row.number.error if row.number.error else None,
                error_kw={"elinewidth": 1.0, "capsize": 2, "ecolor": INK},
            )  # fmt: skip
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_yticks(range(len(rows)), [e.what for e in rows])
        axes.invert_yaxis()
        axes.set_xlabel("adds to the accuracy [points]")
        axes.grid(axis="y", visible=False)
        tips = {f"bar{i}": [f"{row.what}: {shown(row.number)}"] for i, row in enumerate(rows)}
        return svg(drawn, name, f"What {len(rows)} design choices add", tips)


def _legend(drawn: object) -> None:
    drawn.legend(loc="outside upper center", ncols=2, frameon=False, handlelength=1.6, columnspacing=1.2)  # type: ignore[attr-defined]


def _cost(network: Network, metric: str) -> float:
    number = network.predicted.get(metric)
    return float("nan") if number is None or number.value is None else number.value


def _score(network: Network) -> float:
    return 100 * (network.score.value or 0.0) if network.score is not None else 0.0


def _tip(network: Network, metric: str) -> str:
    parts = [network.text, f"accuracy {shown(network.score)}"]
    for name, number in network.predicted.items():
        beside = network.measured.get(name)
        if name == metric or beside is not None:
            parts.append(
                f"{name}: predicted {shown(number)}" + (f", on the target {shown(beside)}" if beside else "")
            )
    return "\n".join(parts)


def _axis(metric: str, unit: str) -> str:
    name = plain_metric(metric)
    for ending in ("_us", "_bytes", "_uj"):
        name = name.removesuffix(ending)
    owner = metric.rpartition(":")[0]
    return " ".join(filter(None, (owner, name))) + (f" [{unit}]" if unit else "")
