"""One network for this CPU and a virtual board: both targets' budgets hold, and both are measured in one report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from profilers.lut import Lut
from targets.session import describe
from tests.workflow.projects import make_project
from tests.workflow.reported import check_report
from toolchain.cli import main
from toolchain.errors import ConfigurationError, InfeasibleError
from toolchain.measurement import Evidence
from toolchain.units import Budget
from toolchain.workflow.costs import open_costs
from toolchain.workflow.profile import profile
from toolchain.workflow.project import Project, open_project
from toolchain.workflow.run import run
from toolchain.workflow.search import search

for name in ("unicorn", "capstone", "serial", "elftools"):
    pytest.importorskip(name, reason=f"a virtual board needs {name}")

pytestmark = pytest.mark.usefixtures("without_onnx")
BOARD = "virtual:nucleo-l4r5zi"
TARGETS = """
[[target]]
name = "pc"
url = "cpu:litert"
precision = "{precision}"
budgets = {{latency = "10 s", flash = "20 kB", macs = "90 k"}}
[[target]]
name = "stm32"
url = "virtual:nucleo-l4r5zi"
budgets = {{cycles = "100 k", flash = "60 kB", ram = "16 kB", macs = "80 k"}}
"""


def make(folder: Path, precision: str = "int8") -> Path:
    make_project(folder, search_epochs=2, epochs=6)
    path = folder / "boardfit.toml"
    before, _, rest = path.read_text().partition("[target]")
    path.write_text(
        before + TARGETS.format(precision=precision) + "[profile]" + rest.partition("[profile]")[2]
    )
    return folder


@pytest.fixture
def profiled(tmp_path: Path) -> Project:
    project = open_project(make(tmp_path / "tiny"))
    profile(project)
    return project


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_the_loop_closes_on_both(tmp_path: Path, precision: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where the CPU runs the float model and the board the int8 one: export makes both."""
    project = open_project(make(tmp_path / "tiny", precision))
    outcome = run(project)
    found, deployed = outcome.search, outcome.deploy
    assert {b.metric: b.bound for b in found.budgets}.items() >= {
        "pc:latency_us": 1e7,
        "pc:flash_bytes": 20e3,
        "stm32:cycles": 100e3,
        "stm32:flash_bytes": 60e3,
        "stm32:ram_bytes": 16e3,
        "macs": 80e3,
    }.items()  # fmt: skip
    rows = {row.metric: row for row in deployed.rows}
    assert all(rows[b.metric].ok for b in found.budgets)
    assert rows.keys() == {
        "pc:latency_us", "pc:flash_bytes", "pc:ram_bytes", "params", "macs",
        "stm32:cycles", "stm32:latency_us", "stm32:flash_bytes", "stm32:ram_bytes",
    }  # fmt: skip
    assert rows["pc:latency_us"].evidence is Evidence.HOST_WALL
    assert rows["stm32:cycles"].evidence is Evidence.CYCLES_ESTIMATED
    assert abs(rows["stm32:cycles"].error_percent or 100) < 2
    for metric in ("flash_bytes", "ram_bytes"):
        row = rows[f"stm32:{metric}"]
        assert row.predicted == row.measured == found.exact[row.metric]
    check_report(project, deployed)
    pc, board = deployed.targets
    assert (pc.name, board.name) == ("pc", "stm32")
    assert pc.model == ("model_int8.tflite" if precision == "int8" else "model_float.tflite")
    assert board.model == "model_int8.bfp"
    assert rows["pc:flash_bytes"].measured == outcome.export.files[pc.model]
    assert board.accuracy == deployed.accuracy_before["int8"]
    for one, file in ((pc, "model.tflite"), (board, "model.bfp")):
        place = Path(one.place)
        assert place == project.results / f"deployed-{one.name}"
        assert (place / file).read_bytes() == (outcome.export.folder / one.model).read_bytes()
    with Lut.open(project.lut_path, read_only=True) as lut:  # one table for both
        assert {s.fingerprint for s in lut.stacks()} == {t.stack.fingerprint for t in outcome.profile.targets}
    again = run(open_project(project.folder))
    assert [t.operators.measured for t in again.profile.targets] == [0, 0]
    assert again.search.reused
    assert again.export.reused

    capsys.readouterr()
    assert main(["deploy", "-C", str(project.folder)]) == 0
    shown = capsys.readouterr().out
    for text in (
        "pc:latency_us",
        "stm32:cycles",
        "on stm32 (model_int8.bfp)",
        "stm32, virtual:nucleo-l4r5zi",
    ):
        assert text in shown
    _one_of_the_two(project, capsys)
    assert main(["deploy", "--undo", "-C", str(project.folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["places"].keys() == {"pc", "stm32"}


def _one_of_the_two(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """`deploy --target NAME` after a search for both: the other one is left as it is, and so is its record."""
    before = project.latest("deploy")
    assert before is not None
    left = [path.stat().st_mtime_ns for path in sorted((project.results / "deployed-pc").iterdir())]
    assert main(["deploy", "--target", "stm32", "-C", str(project.folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {row["metric"].rpartition(":")[0] for row in told["rows"]} == {"stm32", ""}
    assert [one["name"] for one in told["targets"]] == ["stm32"]
    assert [path.stat().st_mtime_ns for path in sorted((project.results / "deployed-pc").iterdir())] == left
    after = project.latest("deploy")
    assert after is not None
    for key, name in (("rows", "metric"), ("targets", "name")):
        assert {one[name] for one in after[key]} == {one[name] for one in before[key]}
    assert main(["deploy", "--target", "nowhere", "-C", str(project.folder)]) == 3
    assert "use one of pc, stm32" in capsys.readouterr().err


def test_prices_are_those_of_each_target_alone(profiled: Project) -> None:
    both = open_costs(profiled, ["pc:latency_us", "stm32:cycles"])
    architectures = [profiled.space.decode(text) for text in ("c4 id", "c8 c4", "c8 c8")]
    together = dict(zip(both.table.metrics, both.table.price(architectures).T, strict=True))
    for target in profiled.config.target:
        alone = open_costs(open_project(profiled.folder, target.name), [])
        prices = dict(zip(alone.table.metrics, alone.table.price(architectures).T, strict=True))
        assert prices
        for metric, column in prices.items():
            assert column.tolist() == together[profiled.metric(target, metric)].tolist()
        for architecture in architectures:
            exact = both.exact(architecture)
            for metric, value in alone.exact(architecture).items():
                assert exact[profiled.metric(target, metric)] == value


def test_what_is_impossible_names_the_target_and_the_metric(
    profiled: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InfeasibleError, match="stm32:cycles cannot be below") as caught:
        search(profiled, budgets=(Budget("stm32:cycles", 100.0),))
    assert caught.value.binding == ("stm32:cycles",)
    assert {"pc:latency_us", "stm32:ram_bytes", "macs"} <= caught.value.least.keys()
    command = ["search", "-C", str(profiled.folder), "--budget"]
    assert main([*command, "pc:latency=1 ns"]) == 4
    shown = capsys.readouterr()
    assert "pc:latency_us cannot be below" in shown.err
    assert "with the margin that is pc:latency = " in shown.err
    assert main([*command, "latency=1 ms"]) == 3
    assert "write NAME:KEY with one of pc, stm32" in capsys.readouterr().err
    assert main([*command, "pi:latency=1 ms"]) == 3
    assert "no such target" in capsys.readouterr().err


def test_a_metric_that_only_the_other_target_gives(profiled: Project) -> None:
    with pytest.raises(ConfigurationError, match="cpu:litert gives no cycles"):
        search(profiled, budgets=(Budget("pc:cycles", 1e9),))


def test_one_target_can_be_profiled_alone(tmp_path: Path) -> None:
    folder = make(tmp_path / "tiny")
    (only,) = profile(open_project(folder, "stm32")).targets
    assert only.stack == describe(BOARD).stack
    pc, board = profile(open_project(folder)).targets
    assert (pc.operators.skipped, board.operators.measured) == (0, 0)


def test_two_boards_are_measured_side_by_side(tmp_path: Path) -> None:
    """In threads, into one table; what they count is what each counts alone."""
    folder = make(tmp_path / "tiny")
    path = folder / "boardfit.toml"
    path.write_text(
        path.read_text().replace("cpu:litert", "virtual:nucleo-f446re").replace('latency = "10 s", ', "")
    )
    seen = set()

    def progress(stage: str, done: int, total: int, note: str) -> None:
        seen.add(stage)

    together = profile(open_project(folder), progress=progress).targets
    assert {"pc profile", "stm32 profile", "pc calibrate", "stm32 calibrate"} <= seen
    alone = open_project(make_project(tmp_path / "alone", url=BOARD))
    profile(alone)
    with Lut.open(open_project(folder).lut_path, read_only=True) as lut, Lut.open(alone.lut_path) as other:
        rows = {row.subject: row.measurement for row in lut.rows(together[1].stack)}
        expected = {row.subject: row.measurement for row in other.rows()}
    assert rows.keys() == expected.keys()
    for subject, found in rows.items():
        assert found.details["output_crc32"] == expected[subject].details["output_crc32"]
        assert found.value == expected[subject].value
