"""Pictures of a search: its course; of an exact selection: the front, how well accuracy is predicted, what pays.

Each function writes a .png and an .svg. Colours are Okabe and Ito's, which colour-blind people tell apart;
every series also has a marker or a hatch of its own. Needs matplotlib (extra `plots`), imported only to draw.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from toolchain.errors import ConfigurationError
from toolchain.files import write_atomic
from toolchain.search.trace import Epoch
from toolchain.units import Budget

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float64]

COLOURS: Final = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
HATCHES: Final = ("", "///", "...", "xx", "\\\\\\", "++", "oo", "--")
GREY: Final = "#666666"
CHOSEN: Final = "#D55E00"
DPI: Final = 150

_SCALES: Final = {
    "_us": (("us", 1.0), ("ms", 1e3), ("s", 1e6)),
    "_bytes": (("B", 1.0), ("kB", 1e3), ("MB", 1e6)),
    "_uj": (("uJ", 1.0), ("mJ", 1e3), ("J", 1e6)),
    "": (("", 1.0), ("thousands", 1e3), ("millions", 1e6)),
}


@dataclass(frozen=True, slots=True)
class Point:
    """One network in a plane of cost and accuracy.

    Attributes:
        cost: in the metric's unit. accuracy: 0 to 1.
        error: standard error of `accuracy`; 0 for none.
        label: written beside it; "" for nothing.
    """

    cost: float
    accuracy: float
    error: float = 0.0
    label: str = ""


@dataclass(frozen=True, eq=False)
class FrontPicture:
    """The networks that no other beats in both, and where the chosen one stands.

    Attributes:
        metric: of the cost, with its unit, e.g. `latency_us`.
        evidence: what the costs are, e.g. "predicted from host_wall".
        costs, accuracies: of the front, costs ascending; accuracies 0 to 1, predicted.
        chosen: the network that was returned, by its prediction.
        alternatives: the next best ones.
        bound: the budget on the metric, or None.
        within: the budgets that the front keeps, in words; "" for none.
        held: those that `held_costs` and `held_accuracies` keep too, in words; they can keep the chosen network below
            the front.
        held_costs, held_accuracies: the best networks under all other budgets, costs ascending; empty for none.
    """

    metric: str
    evidence: str
    costs: Floats
    accuracies: Floats
    chosen: Point
    alternatives: Sequence[Point] = ()
    bound: float | None = None
    within: str = ""
    held: str = ""
    held_costs: Floats = field(default_factory=lambda: np.zeros(0))
    held_accuracies: Floats = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True, eq=False)
class RankingPicture:
    """Networks whose accuracy was predicted, and then measured with the supernet's weights.

    Attributes:
        predicted, measured: accuracies, 0 to 1.
        errors: standard errors of the measured ones.
        kendall, spearman: rank correlations.
        samples: validation samples behind each measured accuracy.
    """

    predicted: Floats
    measured: Floats
    errors: Floats
    kendall: float
    spearman: float
    samples: int


@dataclass(frozen=True, slots=True)
class Bar:
    """What a design choice adds to the accuracy.

    Attributes:
        group: where, e.g. "stage 2"; one place on the horizontal axis.
        series: what, e.g. "kernel 5 instead of 3"; one colour.
        value: difference of accuracies, -1 to 1. error: its standard error.
    """

    group: str
    series: str
    value: float
    error: float


@dataclass(frozen=True, slots=True)
class Panel:
    """One diagram of bars: its title, the name of its groups, and the bars."""

    title: str
    groups: str
    bars: tuple[Bar, ...]


def plot_front(picture: FrontPicture, path: Path) -> tuple[Path, Path]:
    """Draw the Pareto front with the chosen network, its alternatives and the budget.

    Args:
        path: of the files, without a suffix; .png and .svg are added, the folder is made.

    Raises:
        ConfigurationError: matplotlib is missing.
    """
    shown = [picture.chosen.cost, *(p.cost for p in picture.alternatives), *picture.costs.tolist()]
    unit, scale = scaled(picture.metric, max(shown))
    with _figure(7.0, 4.6) as figure:
        axes = figure.add_subplot()
        axes.step(
            picture.costs / scale, 100 * picture.accuracies, where="post", color=COLOURS[0], linewidth=1.4,
            marker="." if len(picture.costs) <= 200 else "", markersize=5, zorder=2,
            label=f"Pareto front{picture.within and ' with ' + picture.within}, {len(picture.costs):,} networks",
        )  # fmt: skip
        if len(picture.held_costs):
            axes.step(
                picture.held_costs / scale, 100 * picture.held_accuracies, where="post", color=COLOURS[1],
                linewidth=1.4, linestyle="-.", zorder=2, label=f"and with {picture.held}",
            )  # fmt: skip
        if picture.alternatives:
            axes.errorbar(
                [p.cost / scale for p in picture.alternatives],
                [100 * p.accuracy for p in picture.alternatives],
                fmt="D", color=COLOURS[2], markersize=5, markerfacecolor="white", linestyle="none", zorder=3,
                label="next best within the budgets",
            )  # fmt: skip
        chosen = picture.chosen
        axes.errorbar(
            [chosen.cost / scale], [100 * chosen.accuracy],
            yerr=[100 * chosen.error] if chosen.error else None,
            fmt="*", color=CHOSEN, markersize=15, markeredgecolor="black", markeredgewidth=0.6, capsize=3, zorder=4,
            label="chosen" + (" (± standard error)" if chosen.error else ""),
        )  # fmt: skip
        if picture.bound is not None:
            axes.axvline(
                picture.bound / scale,
                color=GREY,
                linestyle="--",
                linewidth=1.2,
                label="budget searched under",
            )
        name = picture.metric.rsplit("_", 1)[0] if unit else picture.metric
        axes.set_xlabel(f"{name} [{unit}], {picture.evidence}" if unit else f"{name}, {picture.evidence}")
        axes.set_ylabel("accuracy with shared weights, predicted [%]")
        axes.set_title(f"Best accuracy at each {name.replace('_', ' ')}")
        axes.margins(0.04, 0.08)
        axes.legend(loc="lower right")
        return _save(figure, path)


def plot_ranking(picture: RankingPicture, path: Path) -> tuple[Path, Path]:
    """Draw predicted against measured accuracy of sub-networks, with the rank correlations.

    Args:
        path: see `plot_front`.

    Raises:
        ConfigurationError: matplotlib is missing.
    """
    with _figure(5.4, 5.0) as figure:
        axes = figure.add_subplot()
        x, y = 100 * picture.predicted, 100 * picture.measured
        axes.errorbar(
            x, y, yerr=100 * picture.errors, fmt="o", color=COLOURS[0], ecolor=COLOURS[4], markersize=4.5,
            elinewidth=0.8, zorder=3, label=f"{len(x)} random networks (± standard error)",
        )  # fmt: skip
        low, high = min(x.min(), y.min()), max(x.max(), y.max())
        axes.plot(
            [low, high], [low, high], color=GREY, linestyle="--", linewidth=1.0, zorder=1, label="equal"
        )
        axes.set_xlabel("accuracy predicted [%]")
        axes.set_ylabel(f"accuracy measured, {picture.samples:,} samples, shared weights [%]")
        axes.set_title(f"Kendall {picture.kendall:.2f}, Spearman {picture.spearman:.2f}")
        axes.legend(loc="lower right")
        return _save(figure, path)


def plot_panels(panels: Sequence[Panel], title: str, path: Path) -> tuple[Path, Path]:
    """Draw contributions as bars with standard errors, one diagram a panel, side by side.

    Args:
        panels: those without bars are left out; at least one must have some.
        path: see `plot_front`.

    Raises:
        ConfigurationError: matplotlib is missing, or there is nothing to draw.
    """
    panels = [panel for panel in panels if panel.bars]
    if not panels:
        raise ConfigurationError(f"{title}: nothing to draw")
    widths = [max(3.2, 0.6 + 0.16 * len(p.bars) + 0.2 * len({b.group for b in p.bars})) for p in panels]
    with _figure(max(5.0, sum(widths) + 1.0), 4.4) as figure:
        grid = figure.subplots(1, len(panels), squeeze=False, sharey=True, width_ratios=widths)
        for axes, panel, width in zip(grid[0], panels, widths, strict=True):
            _draw_bars(axes, panel, width)
        grid[0][0].set_ylabel("contribution to accuracy\n[percentage points, ± standard error]")
        figure.suptitle(title)
        return _save(figure, path)


def _draw_bars(axes: Axes, panel: Panel, inches: float) -> None:
    groups = list(dict.fromkeys(bar.group for bar in panel.bars))
    series = list(dict.fromkeys(bar.series for bar in panel.bars))
    width = 0.8 / len(series)
    for number, name in enumerate(series):
        bars = [bar for bar in panel.bars if bar.series == name]
        offset = (number - (len(series) - 1) / 2) * width
        axes.bar(
            [groups.index(bar.group) + offset for bar in bars],
            [100 * bar.value for bar in bars],
            width,
            yerr=[100 * bar.error for bar in bars],
            color=COLOURS[number % len(COLOURS)],
            hatch=HATCHES[number % len(HATCHES)],
            edgecolor="black",
            linewidth=0.5,
            error_kw={"elinewidth": 0.9, "capsize": 2, "ecolor": "black"},
            label=name,
        )
    axes.axhline(0.0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(groups)), groups)
    axes.set_xlabel(panel.groups)
    axes.set_title(panel.title, fontsize="medium")
    if len(series) > 1:
        axes.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, -0.16),
            fontsize="small",
            ncols=max(1, min(len(series), int(inches / (0.8 + 0.085 * max(map(len, series)))))),
        )


def plot_search(
    epochs: Sequence[Epoch], budgets: Sequence[Budget], path: Path, title: str = ""
) -> tuple[Path, Path]:
    """Draw the course of a gradient search over its epochs: accuracy, each budgeted metric, how decided it is.

    Args:
        epochs: at least one, from `toolchain.search.trace.epochs_of`.
        budgets: those of the search; one panel each, with the bound and the forbidden side shaded.
        path: of the files, without a suffix; .png and .svg are added, the folder is made.

    Raises:
        ConfigurationError: matplotlib is missing, or there is no epoch.
    """
    if not epochs:
        raise ConfigurationError("a search without alpha steps has no course to draw")
    x = np.array([row.epoch + 1 for row in epochs])
    with _figure(7.0, 3.4 + 1.7 * len(budgets)) as figure:
        panels: list[Axes] = list(figure.subplots(2 + len(budgets), 1, sharex=True, squeeze=False)[:, 0])
        top, *middle, bottom = panels
        top.plot(x, [100 * row.accuracy for row in epochs], color=COLOURS[0], label="mixture of all networks")
        ends = [(row.epoch + 1, 100 * row.candidate) for row in epochs if np.isfinite(row.candidate)]
        if ends:
            top.plot(
                *zip(*ends, strict=True), ".", color=CHOSEN, markersize=4, label="network at the epoch's end"
            )
        top.set_ylabel("validation\naccuracy %")
        top.legend(loc="upper left")
        if title:
            top.set_title(title)
        for axes, budget in zip(middle, budgets, strict=True):
            _draw_metric(axes, x, epochs, budget)
        for axes in middle[:1]:  # the others read alike
            axes.legend(loc="upper right", ncols=3)
        bottom.plot(
            x, [row.entropy for row in epochs], color=COLOURS[0], label="entropy of the choices, nats"
        )
        bottom.plot(
            x,
            [1 - row.kept for row in epochs],
            color=CHOSEN,
            linestyle=":",
            label="share of steps over budget",
        )
        bottom.set_ylim(bottom=0)
        bottom.set_xlabel("epoch")
        bottom.set_ylabel("entropy,\nshare")
        bottom.legend(loc="upper right")
        figure.align_ylabels()
        return _save(figure, path)


def _draw_metric(axes: Axes, x: npt.NDArray[np.int64], epochs: Sequence[Epoch], budget: Budget) -> None:
    """One metric of the current network: its range within each epoch, its middle, and the bound."""
    low, middle, high = np.array([row.costs[budget.metric] for row in epochs]).T
    unit, scale = scaled(budget.metric, max(float(high.max()), budget.bound))
    axes.fill_between(
        x,
        low / scale,
        high / scale,
        color=COLOURS[4],
        alpha=0.4,
        linewidth=0,
        label="current network, range in the epoch",
    )
    axes.plot(x, middle / scale, color=COLOURS[0], linewidth=1.2, label="its middle")
    axes.axhline(budget.bound / scale, color=GREY, linestyle="--", linewidth=1.2, label="budget")
    top = max(float(high.max()), budget.bound) * 1.2 / scale
    axes.axhspan(
        budget.bound / scale, top, facecolor="none", edgecolor="#bbbbbb", hatch="///", linewidth=0, zorder=0
    )
    axes.set_ylim(min(float(low.min()), budget.bound) * 0.92 / scale, top)
    name = budget.metric.removesuffix(next(s for s in _SCALES if budget.metric.endswith(s)))
    axes.set_ylabel(f"{name}\n{unit}".rstrip())


@contextmanager
def _figure(width: float, height: float) -> Iterator[Figure]:
    """An empty figure with our settings, on no screen and in nobody's pyplot."""
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure as NewFigure
    except ImportError:
        raise ConfigurationError("plots need matplotlib", remedy="pip install 'boardfit[plots]'") from None
    settings: dict[Any, Any] = {
        "font.size": 10, "axes.grid": True, "axes.axisbelow": True, "grid.color": "#dddddd", "grid.linewidth": 0.6,
        "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": True, "legend.fontsize": "small",
        "hatch.linewidth": 0.5, "svg.hashsalt": "boardfit", "svg.fonttype": "none",
    }  # fmt: skip
    with matplotlib.rc_context(settings):
        figure = NewFigure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure


def _save(figure: Figure, path: Path) -> tuple[Path, Path]:
    """Both files; the same picture gives the same bytes."""
    png, svg = path.with_name(path.name + ".png"), path.with_name(path.name + ".svg")
    options: dict[Path, dict[str, Any]] = {
        png: {"format": "png", "dpi": DPI, "metadata": {"Software": None}},
        svg: {"format": "svg", "metadata": {"Date": None}},
    }
    for file, how in options.items():
        drawn = io.BytesIO()
        figure.savefig(drawn, **how)
        write_atomic(file, drawn.getvalue())
    return png, svg


def scaled(metric: str, largest: float) -> tuple[str, float]:
    """The unit in which `largest` is read easily, and what one of it is in the metric's unit."""
    steps = next(steps for suffix, steps in _SCALES.items() if metric.endswith(suffix))
    return max((step for step in steps if largest >= step[1]), key=lambda step: step[1], default=steps[0])
