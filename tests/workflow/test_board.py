"""The loop on a virtual board: profile, search, export, deploy; what was predicted is what the board counts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from profilers.lut import Lut, Network
from profilers.profile import operator_writer
from profilers.single import CONSTANT_NETWORKS
from targets.mcu.session import BoardSession
from targets.session import Job, Result, describe
from tests.workflow.projects import make_project
from tests.workflow.reported import check_report
from toolchain.cli import main
from toolchain.errors import ConfigurationError, DeviceError, InfeasibleError, LutError, VerificationError
from toolchain.graph import Operator
from toolchain.graph.integer_reference import run_int8
from toolchain.measurement import Evidence, Stack
from toolchain.units import Budget
from toolchain.workflow import deploy_check
from toolchain.workflow.bench import bench
from toolchain.workflow.costs import open_costs
from toolchain.workflow.deploy import deploy
from toolchain.workflow.export import export
from toolchain.workflow.profile import calibration_networks, profile
from toolchain.workflow.project import Project, open_project
from toolchain.workflow.run import RunOutcome, run
from toolchain.workflow.search import search
from toolchain.workflow.sessions import open_session

for name in ("unicorn", "capstone", "serial", "elftools"):
    pytest.importorskip(name, reason=f"a virtual board needs {name}")

pytestmark = pytest.mark.usefixtures("without_onnx")
URL = "virtual:nucleo-l4r5zi"
BUDGETS = 'latency = "1 ms"\ncycles = "100 k"\nflash = "60 kB"\nram = "16 kB"'


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose table is not made yet."""
    return make_project(tmp_path / "tiny", url=URL, budgets=BUDGETS, search_epochs=2, epochs=6)


@pytest.fixture
def profiled(project: Path) -> Project:
    """A project with its table."""
    opened = open_project(project)
    profile(opened)
    return opened


def test_the_loop_closes_on_a_board(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opened = open_project(project)
    outcome = run(opened)
    check(opened, outcome)
    check_report(opened, outcome.deploy)
    assert main(["deploy", "-C", str(project)]) == 0
    shown = capsys.readouterr().out
    for text in (
        "cycles_estimated",
        "no hardware was used",
        "m4-flash/2",
        "±15 %",
        "every value equal",
        "deepest stack",
    ):
        assert text in shown
    # Nothing changed: the table, the search and the files stand, and so do the figures.
    again = run(open_project(project))
    assert (again.profile.targets[0].operators.measured, again.search.reused, again.export.reused) == (
        0,
        True,
        True,
    )
    for row, before in zip(again.deploy.rows, outcome.deploy.rows, strict=True):
        assert row.predicted == before.predicted
        assert row.measured == before.measured


def check(project: Project, outcome: RunOutcome) -> None:
    """What the stages say agrees with each other and with the board."""
    (profiled,), found, (deployed,) = outcome.profile.targets, outcome.search, outcome.deploy.targets
    assert not profiled.failures
    assert profiled.calibration is not None
    assert profiled.calibration.method == "measured constant"
    assert profiled.calibration.mape < 2.0
    assert deployed.stack == profiled.stack == describe(URL).stack
    rows = {row.metric: row for row in outcome.deploy.rows}
    assert rows.keys() == {"cycles", "latency_us", "flash_bytes", "ram_bytes", "params", "macs"}
    for metric in ("flash_bytes", "ram_bytes"):
        assert rows[metric].predicted == rows[metric].measured == found.exact[metric]
        assert rows[metric].evidence is Evidence.COUNTED
    for metric in ("cycles", "latency_us"):
        assert rows[metric].evidence is Evidence.CYCLES_ESTIMATED
        assert abs(rows[metric].error_percent or 100) < 2
    device = describe(URL).device
    assert device is not None
    assert rows["latency_us"].measured == pytest.approx(
        (rows["cycles"].measured or 0) * 1e6 / device.clock_hz
    )
    for budget in found.budgets:
        assert rows[budget.metric].ok
    assert deployed.differing == 0
    assert deployed.samples == len(project.data.x["test"])
    assert deployed.accuracy == outcome.deploy.accuracy_before["int8"]
    assert deployed.model == "model_int8.bfp"
    place = Path(deployed.place)
    assert (place / "model.bfp").read_bytes() == (outcome.export.folder / "model_int8.bfp").read_bytes()
    assert (place / "firmware.bin").stat().st_size == device.firmware_flash_bytes
    reserved = int(deployed.details["stack_reserved_bytes"])
    assert 0 < int(deployed.details["stack_bytes"]) < reserved < device.firmware_ram_bytes
    assert deployed.note.startswith("no hardware was used")


def test_a_deployment_on_a_board_is_taken_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The slot runs what lies in the folder; what is of other firmware is refused."""
    place = tmp_path / "product"
    with open_session(URL, "int8") as session:
        write = operator_writer(session.model_format)
        models = [write(Operator.parse(f"fully_connected 4->{n} none int8")) for n in (2, 3)]
        x = np.zeros((1, 4), np.int8)
        for model in models:
            session.deploy(model, place)
        assert (place / "model.bfp").read_bytes() == models[1]
        assert session.undo(place) == str(place)
        assert (place / "model.bfp").read_bytes() == models[0]
        assert isinstance(session, BoardSession)
        assert session._loaded == models[0]
        assert session.run(models[0], x).size == 2
        session.undo(place)
        assert (place / "model.bfp").read_bytes() == session._loaded == models[1]
        (tmp_path / "product.previous" / "firmware.bin").write_bytes(b"another")
        with pytest.raises(ConfigurationError, match="was deployed with other firmware"):
            session.undo(place)
        (tmp_path / "product.previous" / "model.bfp").unlink()
        with pytest.raises(ConfigurationError, match="holds no model of this runtime"):
            session.undo(place)
        assert (place / "model.bfp").read_bytes() == session._loaded == models[1]
        with pytest.raises(ConfigurationError, match="nothing to go back to"):
            session.undo(tmp_path / "elsewhere")


def test_the_table_prices_whole_networks(profiled: Project) -> None:
    """Sums of operators and the runtime's constant against whole networks; bytes arc by arc against the device's."""
    costs = open_costs(profiled, ["cycles", "latency_us"])
    assert costs.table.metrics == ("cycles", "latency_us", "params", "macs", "flash_bytes", "ram_bytes")
    with Lut.open(profiled.lut_path, read_only=True) as lut:
        rows = {network.name: found for network, found in lut.networks(costs.targets[0].stack, "cycles")}
    assert set(CONSTANT_NETWORKS) < rows.keys()
    one, two = (rows[name].value for name in CONSTANT_NETWORKS)
    assert costs.targets[0].calibration is not None
    assert costs.targets[0].calibration.intercept == 2 * one - two > 0
    for architecture in calibration_networks(profiled, 4):
        found = rows[profiled.space.encode(architecture)]
        price = dict(zip(costs.table.metrics, costs.table.price([architecture])[0].tolist(), strict=True))
        exact = costs.exact(architecture)
        for metric in ("flash_bytes", "ram_bytes"):
            assert price[metric] == exact[metric] == float(found.details[metric])
        assert price["cycles"] == pytest.approx(found.value, rel=0.02)
        assert price["cycles"] == pytest.approx(exact["cycles"], rel=1e-9)
        assert price["latency_us"] == pytest.approx(price["cycles"] / 120, rel=1e-6)


def test_profiling_goes_on_where_the_board_died(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_project(project)
    real = BoardSession._results

    def dies(self: BoardSession, jobs: list[Job]) -> Iterator[Result]:
        for number, result in enumerate(real(self, jobs)):
            if number == 3:
                raise DeviceError("the board stopped answering")
            yield result

    with monkeypatch.context() as patch:
        patch.setattr(BoardSession, "_results", dies)
        with pytest.raises(DeviceError, match="stopped answering"):
            profile(opened)
    with Lut.open(opened.lut_path, read_only=True) as lut:
        kept = {row.subject: row.outcome for row in lut.rows()}
    assert len(kept) == 3
    (outcome,) = profile(opened).targets
    assert outcome.operators.skipped == 3
    with Lut.open(opened.lut_path, read_only=True) as lut:
        rows = {row.subject: row.outcome for row in lut.rows()}
    assert all(rows[subject] == found for subject, found in kept.items())


def test_two_tables_of_one_space_are_equal(tmp_path: Path) -> None:
    """Nothing of the host gets into a virtual board's numbers."""
    tables = []
    for name in "ab":
        opened = open_project(make_project(tmp_path / name, url=URL, budgets=BUDGETS))
        profile(opened)
        with Lut.open(opened.lut_path, read_only=True) as lut:
            tables.append({row.subject: row.measurement for row in lut.rows()})
    assert tables[0].keys() == tables[1].keys()
    for subject, found in tables[0].items():
        other = tables[1][subject]
        assert other.details["output_crc32"] == found.details["output_crc32"]
        assert other.value == found.value


def test_a_network_never_outgrows_the_part(profiled: Project) -> None:
    """The memories of the part are budgets, asked or not."""
    device = describe(URL).device
    assert device is not None
    limits = open_costs(profiled, []).targets[0].footprint.limits
    assert limits == {
        "flash_bytes": device.firmware_flash_bytes + device.slot_bytes,
        "ram_bytes": device.firmware_ram_bytes + device.arena_bytes,
    }
    roomy = search(profiled, budgets=(Budget("flash_bytes", 1e9), Budget("ram_bytes", 1e9)))
    assert {b.metric: b.bound for b in roomy.budgets}.items() >= limits.items()


@pytest.mark.parametrize(
    ("budget", "binding"),
    [
        (Budget("cycles", 100.0), "cycles"),
        (Budget("latency_us", 1.0), "latency_us"),
        (Budget("ram_bytes", 5000.0), "ram_bytes"),
    ],
)
def test_budgets_that_nothing_keeps(profiled: Project, budget: Budget, binding: str) -> None:
    with pytest.raises(InfeasibleError) as caught:
        search(profiled, budgets=(budget,))
    assert caught.value.binding == (binding,)
    assert caught.value.exit_code == 4
    assert caught.value.least[binding] > budget.bound


def test_a_table_of_another_target_is_none(project: Path) -> None:
    profile(open_project(project, "virtual:nucleo-f446re"))
    with pytest.raises(LutError, match=r"no rows of virtual:nucleo-l4r5zi .*boardfit profile"):
        search(open_project(project))


def test_a_table_of_older_firmware_is_called_so(profiled: Project) -> None:
    with Lut.open(profiled.lut_path) as lut:
        rows, _ = lut.contents()
    profiled.lut_path.unlink()
    with Lut.open(profiled.lut_path) as lut:
        lut.put_many(
            replace(row, stack=Stack.of({**row.stack.as_dict(), "firmware": "of last week"})) for row in rows
        )
    with pytest.raises(
        LutError, match=r"for this space; those of this target that it has differ in firmware \("
    ):
        search(profiled)


def test_a_core_without_a_validated_timing_has_no_latency(tmp_path: Path) -> None:
    folder = make_project(tmp_path / "tiny", url="virtual:nucleo-g071rb", budgets='flash = "60 kB"')
    opened = open_project(folder)
    (outcome,) = profile(opened).targets
    assert outcome.calibration is not None
    assert outcome.calibration.evidence is Evidence.INSTRUCTIONS
    assert "latency_us" not in open_costs(opened, ["instructions"]).table.metrics
    for metric in ("latency_us", "cycles"):
        with pytest.raises(
            ConfigurationError, match=r"not validated, so only instructions.*boardfit calibrate"
        ):
            search(opened, budgets=(Budget(metric, 1e6),))


def test_float_models_are_refused_before_anything_is_measured(tmp_path: Path) -> None:
    folder = make_project(tmp_path / "tiny", url=URL, precision="float32", budgets='flash = "60 kB"')
    with pytest.raises(ConfigurationError, match=r'takes no float32 model.*precision = "int8"'):
        profile(open_project(folder))


@pytest.mark.slow
def test_wrong_answers_and_wrong_bytes_are_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_project(project)
    profile(opened)
    search(opened)
    export(opened)

    def one_off(graph: Any, x: Any) -> Any:
        answers = run_int8(graph, x).copy()
        answers.flat[0] ^= 1
        return answers

    with monkeypatch.context() as patch:
        patch.setattr(deploy_check, "run_int8", one_off)
        with pytest.raises(VerificationError, match="on the board 1 of 72 output values"):
            deploy(opened)
    assert not (opened.results / "deployed").exists()

    real = BoardSession._measurement

    def more(self: BoardSession, *parts: Any) -> Any:
        found = real(self, *parts)
        return type(found)(
            found.metric, found.value, found.evidence, found.samples,
            details={**found.details, "ram_bytes": str(int(found.details["ram_bytes"]) + 8)},
        )  # fmt: skip

    monkeypatch.setattr(BoardSession, "_measurement", more)
    with pytest.raises(VerificationError, match="ram_bytes, the plan says"):
        deploy(opened)


def test_bench_on_a_board(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.workflow.test_bench import int8_network
    from toolchain.export.tflite_writer import write_tflite

    path = tmp_path / "net.tflite"
    graph = int8_network()
    path.write_bytes(write_tflite(graph))
    outcome = bench(path, URL)
    assert outcome.whole.metric == "cycles"
    assert outcome.time is not None
    assert outcome.time.value == pytest.approx(outcome.whole.value / 120)
    assert outcome.sum == pytest.approx(outcome.whole.value, rel=0.2)
    assert [cost.signature for cost in outcome.operators] == [op.signature for op in graph.operators]
    assert main(["bench", str(path), "--target", URL]) == 0
    shown = capsys.readouterr().out
    for text in (
        "MACs/cycle",
        "latency, estimated",
        "at 120 MHz",
        "no hardware was used",
        "±15 %",
        "flash_bytes",
    ):
        assert text in shown
    assert main(["bench", str(path), "--target", URL, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["whole"]["evidence"] == "cycles_estimated"
    assert document["computed"]["ram_bytes"] == int(outcome.whole.details["ram_bytes"])


def test_networks_are_rows_of_their_own(profiled: Project) -> None:
    """Run again, nothing is measured; the networks of the constant are no networks of the space."""
    (outcome,) = profile(profiled).targets
    assert outcome.operators.measured == 0
    assert outcome.networks is not None
    assert outcome.networks.measured == 0
    assert outcome.calibration is not None
    assert outcome.calibration.n_held_out == len(calibration_networks(profiled, 4))
    with Lut.open(profiled.lut_path, read_only=True) as lut:
        assert all(isinstance(n, Network) for n, _ in lut.networks(outcome.stack, "cycles"))
    assert np.isfinite(outcome.calibration.mape)
