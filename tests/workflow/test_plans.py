"""Algorithms as part of the loop: flash is traded for time under the budgets, and what is foretold is what runs."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from profilers.lut import Lut
from profilers.settle import patch_operators
from tests.workflow.projects import channels_of, edit, make_project
from toolchain.cli import main
from toolchain.errors import InfeasibleError
from toolchain.export.native.plan import DIRECT, Plan
from toolchain.export.native.reader import read_program
from toolchain.export.native.weights import DSP_WINOGRAD
from toolchain.report.comparison import ComparisonRow
from toolchain.units import Budget, format_value
from toolchain.workflow.costs import open_costs
from toolchain.workflow.deploy import deploy
from toolchain.workflow.export import export, export_c
from toolchain.workflow.exported import programs
from toolchain.workflow.models import structural_graph
from toolchain.workflow.profile import profile
from toolchain.workflow.project import Project, open_project
from toolchain.workflow.rounds import search_in_rounds
from toolchain.workflow.search import search

for name in ("unicorn", "capstone", "serial", "elftools"):
    pytest.importorskip(name, reason=f"a virtual board needs {name}")

pytestmark = pytest.mark.usefixtures("without_onnx")
URL = "virtual:nucleo-l4r5zi"
# Wider, so that 3x3 convolutions gain by Winograd's algorithm.
WIDE = (
    channels_of(16, 20)
    .replace("nn.MaxPool2d(2)", "nn.Conv2d(self.input_shape[0], 8, 3, padding=1)")
    .replace(', Candidate("id", "id")', ",")
)
SMALLEST = (0, 0)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with its table, to be copied."""
    folder = make_project(
        tmp_path_factory.mktemp("wide") / "p",
        space=WIDE,
        url=URL,
        budgets='flash = "1 MB"',
        search_epochs=1,
        epochs=2,
    )
    edit(folder, "samples = 8", "samples = 8\ncontribution_samples = 320\nranking_networks = 4")
    profile(open_project(folder))
    return folder


@pytest.fixture
def project(table: Path, tmp_path: Path) -> Project:
    return open_project(shutil.copytree(table, tmp_path / "wide"))


def costs_under(project: Project, **bounds: float) -> dict[str, float]:
    """What the smallest network costs under bounds."""
    budgets = [Budget(metric, bound) for metric, bound in bounds.items()]
    return open_costs(project, ["cycles"]).under(budgets).exact(SMALLEST)


def off_percent(row: ComparisonRow) -> float:
    assert row.error_percent is not None
    return row.error_percent


def test_every_algorithm_has_a_row(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    with Lut.open(project.lut_path, read_only=True) as lut:
        (stack,) = lut.stacks()
        values = lut.table(stack, "cycles").values
        networks = lut.networks(stack, "cycles")
    winograd = [op for op in values if op.algorithm == "winograd"]
    assert len(winograd) == 2 + 2 * 2  # two widths behind the stem, four pairs of widths behind those
    # Whole networks are measured as they would be deployed, and judge the sums with their algorithms.
    assert any(op.algorithm == "winograd" for network, _ in networks for op in network.operators)
    costs = open_costs(project, ["cycles"]).targets[0]
    assert costs.calibration is not None
    assert costs.calibration.mape < 2.0
    assert main(["lut", "show", str(project.lut_path)]) == 0
    shown = capsys.readouterr().out
    assert "winograd" in shown


def test_flash_buys_time(project: Project) -> None:
    """From no room to much, byte by byte of what the plans take: cycles fall, flash stays within the bound, and the
    exact plan is never worse than the table's.
    """
    graph = structural_graph(project, SMALLEST, "int8")
    costs = open_costs(project, ["cycles"])
    board = costs.targets[0]
    every = [
        board.of_graph(graph, Plan(frozenset(nodes)))
        for nodes in ((), (1,), (2,), (1, 2))
    ]  # fmt: skip
    assert [op.kernel for op in graph.operators[:3]] == [(3, 3)] * 3
    seen = []
    for bound in sorted({one["flash_bytes"] for one in every}):
        under = costs.under([Budget("flash_bytes", bound)])
        exact, price = (
            under.exact(SMALLEST),
            dict(zip(costs.table.metrics, under.table.price([SMALLEST])[0], strict=True)),
        )
        best = min(one["cycles"] for one in every if one["flash_bytes"] <= bound)
        assert exact["cycles"] == pytest.approx(best)
        assert exact["flash_bytes"] <= bound
        assert price["flash_bytes"] <= bound
        assert price["cycles"] >= exact["cycles"] - 1e-3
        seen.append(exact["cycles"])
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] < 0.8 * seen[0]


@pytest.mark.parametrize("method", ["connas", "binas", "evolution"])
def test_a_budget_that_only_winograd_keeps(project: Project, method: str) -> None:
    """Every network is too slow when it is computed directly; a flash budget without room for more says no."""
    direct, fast = costs_under(project, flash_bytes=1), costs_under(project)
    limit = Budget("cycles", (direct["cycles"] + fast["cycles"]) / 2)
    found = search(project, budgets=(limit,), method=method)
    assert found.predicted["cycles"] <= limit.bound
    assert found.exact["flash_bytes"] > direct["flash_bytes"]
    assert Plan.from_dict(found.targets[0].plan) != DIRECT
    with pytest.raises(InfeasibleError) as caught:
        search(project, budgets=(limit, Budget("flash_bytes", direct["flash_bytes"])), method=method)
    assert set(caught.value.binding) == {"cycles", "flash_bytes"}
    assert caught.value.least["cycles"] <= limit.bound


def test_what_is_foretold_is_written_deployed_and_counted(project: Project, tmp_path: Path) -> None:
    """A flash budget with room for one of two layers: the same plan everywhere."""
    graph = structural_graph(project, SMALLEST, "int8")
    board = open_costs(project, ["cycles"]).targets[0]
    one = board.of_graph(graph, Plan(frozenset({2})))
    budgets = (Budget("flash_bytes", one["flash_bytes"]),)
    found = search(project, budgets=budgets, method="random")
    plan = Plan.from_dict(found.targets[0].plan)
    assert len(plan.winograd) == 1
    outcome = export(project)
    assert outcome.verification.ok
    (program,) = programs(project).values()
    info = read_program((project.model_folder / program.name).read_bytes())
    assert [i for i, op in enumerate(info.operators) if op.kernel == DSP_WINOGRAD] == sorted(plan.winograd)
    rows = {row.metric: row for row in deploy(project).rows}
    for metric in ("flash_bytes", "ram_bytes"):
        assert rows[metric].predicted == rows[metric].measured == found.exact[metric]
    assert abs(off_percent(rows["cycles"])) < 2
    with Lut.open(project.lut_path, read_only=True) as lut:
        networks = {n.name: n for n, _ in lut.networks(lut.stacks()[0], "cycles")}
    assert sum(op.algorithm == "winograd" for op in networks[found.text].operators) == 1
    # The C project has it, too; another budget makes other files.
    made = export_c(project, tmp_path / "c")
    assert "kernels/winograd.c" in made.files
    assert found.text == search(project, budgets=(Budget("flash_bytes", 1e6),), method="random").text
    assert not export(project).reused


def test_ram_is_bought_with_patches(project: Project) -> None:
    """Below what any network takes at once, first blocks run patch by patch. The table's prices are from above: what
    keeps a bound by them keeps it exactly, with no more cycles.
    """
    costs = open_costs(project, ["cycles"])
    metrics, networks = costs.table.metrics, list(itertools.product(range(2), repeat=2))
    least = float(costs.table.price(networks)[:, metrics.index("ram_bytes")].min())
    found = {}
    for bound in np.arange(least - 1500, least, 100).tolist():
        under = costs.under([Budget("ram_bytes", bound)])
        for network in networks:
            price = dict(zip(metrics, under.table.price([network])[0], strict=True))
            if price["ram_bytes"] <= bound:
                exact = under.exact(network)
                assert exact["ram_bytes"] <= bound
                assert exact["cycles"] <= price["cycles"]
                found[bound] = exact
    bound = min(found)
    outcome = search(project, budgets=(Budget("ram_bytes", bound),), method="random")
    assert Plan.from_dict(outcome.targets[0].plan).patches is not None
    assert outcome.predicted["ram_bytes"] <= bound < least


@pytest.mark.parametrize("method", ["random", "binas"])
def test_a_refusal_says_what_patches_are_worth(project: Project, method: str) -> None:
    """The least RAM without and with patches; a budget of the second is kept, and so is one between the two."""
    with pytest.raises(InfeasibleError) as caught:
        search(project, budgets=(Budget("ram_bytes", 4000.0),), method=method)
    least = caught.value.least["ram_bytes"]
    costs = open_costs(project, ["cycles"])
    whole = float(
        costs.table.price(list(itertools.product(range(2), repeat=2)))[
            :, costs.table.metrics.index("ram_bytes")
        ].min()
    )
    assert 4000 < least < whole
    assert caught.value.message.endswith(
        f"ram_bytes is {format_value('ram_bytes', whole)} at the least without patches, "
        f"{format_value('ram_bytes', least)} with"
    )
    found = search(project, budgets=(Budget("ram_bytes", least),), method=method)
    assert found.exact["ram_bytes"] <= least
    with pytest.raises(InfeasibleError, match="at the least without patches"):
        search(project, budgets=(Budget("ram_bytes", least - 1),), method=method)


@pytest.mark.parametrize("method", ["random", "binas"])
def test_patches_have_rows_of_their_own(project: Project, method: str) -> None:
    """A budget on RAM that only patches keep. Their operators are in no list of the space: they are measured when the
    chosen network needs them, and then what is foretold is what the board counts.
    """
    costs = open_costs(project, ["cycles"])
    networks = list(itertools.product(range(2), repeat=2))
    ram = costs.table.price(networks)[:, costs.table.metrics.index("ram_bytes")]
    bound = float(ram.min()) - 150
    folder = project.folder
    edit(folder, 'flash = "1 MB"', f'ram = "{bound:.0f} B"')
    edit(folder, "samples = 8", f'samples = 8\nmethod = "{method}"')
    project = open_project(folder)
    first = search(project)
    plan = Plan.from_dict(first.targets[0].plan)
    assert plan.patches is not None
    graph = structural_graph(project, first.architecture, "int8")
    board = open_costs(project, ["cycles"]).targets[0]
    assert board.patched == {}
    assert set(board.shares(graph, plan)) == set(patch_operators(graph, plan))

    outcome = search_in_rounds(project)
    found = outcome.search
    plan = Plan.from_dict(found.targets[0].plan)
    graph = structural_graph(project, found.architecture, "int8")
    board = open_costs(project, ["cycles"]).targets[0]
    assert board.shares(graph, plan) == ()
    assert set(patch_operators(graph, plan)) <= set(board.patched)
    assert found.predicted == {**found.predicted, **board.of_graph(graph, plan)}
    export(project)
    rows = {row.metric: row for row in deploy(project).rows}
    for metric in ("flash_bytes", "ram_bytes"):
        assert rows[metric].predicted == rows[metric].measured
    assert found.exact["ram_bytes"] <= bound
    assert abs(off_percent(rows["cycles"])) < 2
    again = search_in_rounds(project)
    assert again.reused
    assert again.search.reused


def test_deploy_measures_the_rows_of_patches(project: Project) -> None:
    """Stage by stage, without rounds: a search opens no device, so `deploy` measures what its prediction lacks."""
    costs = open_costs(project, ["cycles"])
    ram = costs.table.price([SMALLEST])[0, costs.table.metrics.index("ram_bytes")]
    found = search(project, budgets=(Budget("ram_bytes", float(ram) - 150),), method="random")
    plan = Plan.from_dict(found.targets[0].plan)
    assert plan.patches is not None
    graph = structural_graph(project, found.architecture, "int8")
    assert open_costs(project, ["cycles"]).targets[0].shares(graph, plan)
    export(project)
    first, again = ({row.metric: row for row in deploy(project).rows} for _ in range(2))
    board = open_costs(project, ["cycles"]).targets[0]
    assert board.shares(graph, plan) == ()
    assert found.predicted["cycles"] != first["cycles"].predicted == board.of_graph(graph, plan)["cycles"]
    assert abs(off_percent(first["cycles"])) < 2
    assert again["cycles"].predicted == first["cycles"].predicted


def test_an_old_table_is_a_table_without_choices(project: Project) -> None:
    """Rows of direct operators alone: prices are those of direct programs, and nothing is an error."""
    with Lut.open(project.lut_path) as lut:
        rows, _ = lut.contents()
    project.lut_path.unlink()
    with Lut.open(project.lut_path) as lut:
        lut.put_many(r for r in rows if "winograd" not in json.dumps([str(r.subject)]))
    costs = open_costs(project, ["cycles"], strict=True)
    plans = costs.targets[0].plans
    assert plans is not None
    assert not plans.options
    assert costs.targets[0].plan(structural_graph(project, SMALLEST, "int8")) == DIRECT
    assert np.isfinite(costs.table.price([SMALLEST])).all()
