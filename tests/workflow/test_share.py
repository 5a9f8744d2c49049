"""Measuring a share of a space: the others are predicted, marked, and refused by --strict."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from profilers.footprint import with_algorithms
from profilers.lut import Lut
from profilers.predicted import kept_errors
from tests.workflow.projects import channels_of, make_project
from toolchain.cli import main
from toolchain.errors import LutError
from toolchain.units import Budget
from toolchain.workflow.costs import open_costs
from toolchain.workflow.dry_profile import profile_step
from toolchain.workflow.dry_step import Asked
from toolchain.workflow.export import export
from toolchain.workflow.profile import profile
from toolchain.workflow.project import Project, open_project
from toolchain.workflow.search import search

for name in ("unicorn", "capstone", "serial", "elftools"):
    pytest.importorskip(name, reason=f"a virtual board needs {name}")

pytestmark = pytest.mark.usefixtures("without_onnx")
CYCLES = (Budget("cycles", 1e6),)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A space of 55 operators, 12 of them by two algorithms, on a virtual board, whose cycles do not depend on what
    else this machine does.
    """
    folder = make_project(
        tmp_path / "wide",
        space=channels_of(2, 3, 4, 5, 6, 8),
        url="virtual:nucleo-l4r5zi",
        budgets='cycles = "1 M"',
        search_epochs=1,
        epochs=1,
    )
    return open_project(folder)


def test_a_share_is_measured_and_the_rest_is_predicted(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    space = with_algorithms("native-dsp", project.space.chain("int8").operators)
    (target,), asked = project.config.target, Asked(share="25 %")
    foretold = profile_step(project, target, asked)
    (found,) = profile(project, share="25 %").targets
    assert foretold.what.startswith(f"measure {found.operators.measured} operators (25 % of the space)")
    assert profile_step(project, target, asked).does == "reuse"
    assert profile_step(project, target, Asked()).what.startswith(
        f"measure {found.predicted} operators and 0"
    )
    assert found.space == len(space)
    # Six of every kind are needed: the share of this small space is not enough for that.
    assert found.operators.measured == found.space - found.predicted < len(space) // 2
    assert not found.failures
    assert found.calibration is not None
    assert 0 < found.calibration.mape < 20
    with Lut.open(project.lut_path, read_only=True) as lut:
        assert kept_errors(lut, found.stack, "cycles") == found.kinds
        rows = {row.subject for row in lut.rows(found.stack, subject="operator")}
    assert len(rows & set(space)) == found.operators.measured  # a prediction is never a row
    again = profile(project, share="25 %").targets[0]
    assert (again.operators.measured, again.predicted) == (0, found.predicted)

    costs = open_costs(project, ["cycles"])
    (priced,) = costs.targets
    assert priced.filled is not None
    assert len(priced.filled.predicted) == found.predicted
    told = f"{found.predicted} of {found.space} operators predicted, off by {100 * priced.filled.error:.1f} %"
    assert told in costs.table.origins["cycles"]
    outcome = search(project)
    assert told in outcome.evidence["cycles"]
    assert told in outcome.targets[0].note
    assert (outcome.targets[0].predicted, outcome.targets[0].operators) == (found.predicted, found.space)
    assert search(project).reused

    folder = str(project.folder)
    for command in ("search", "export"):
        capsys.readouterr()
        assert main([command, "-C", folder, "--strict"]) == 3
        assert f"{found.predicted} of {found.space} operators" in capsys.readouterr().err
    assert main(["search", "-C", folder]) == 0
    assert told in capsys.readouterr().out
    assert main(["lut", "show", str(project.lut_path), "--limit", "1"]) == 0
    assert "predictor of cycles conv2d window int8: predicted from" in capsys.readouterr().out


def test_predictions_are_near_what_is_measured_later(project: Project) -> None:
    profile(project, share="25 %")
    costs = open_costs(project, ["cycles"])
    filled = costs.targets[0].filled
    assert filled is not None
    (rest,) = profile(project).targets
    assert rest.predicted == 0
    assert rest.operators.measured == len(filled.predicted)
    whole = open_costs(project, ["cycles"], strict=True)
    (exact,) = whole.targets
    assert exact.filled is None
    assert whole.fingerprint != costs.fingerprint
    errors = [abs(found.value / exact.values[op] - 1) for op, found in filled.predicted.items()]
    # Six convolutions of 2 to 8 channels stand for 42, and each channel count takes another way through the kernels.
    assert sum(errors) / len(errors) < 0.25


def test_strict_changes_nothing_where_all_is_measured(project: Project) -> None:
    profile(project)
    loose, strict = open_costs(project, ["cycles"]), open_costs(project, ["cycles"], strict=True)
    assert loose.fingerprint == strict.fingerprint
    architectures = [project.space.decode(text) for text in ("c2 id", "c5 c6", "c8 c8")]
    assert loose.table.price(architectures).tolist() == strict.table.price(architectures).tolist()
    outcome = search(project)
    assert (outcome.targets[0].predicted, outcome.targets[0].predicted_error) == (0, None)
    assert "predicted, off" not in json.dumps(dict(outcome.evidence))
    assert search(project, strict=True).reused


def test_strict_refuses_what_was_found_with_predictions(project: Project) -> None:
    (found,) = profile(project, share="25 %").targets
    search(project)
    with pytest.raises(LutError, match=rf"found with {found.predicted} of {found.space} operators predicted"):
        export(project, strict=True)
    with pytest.raises(
        LutError, match=rf"{found.predicted} of {found.space} operators of this space have no row"
    ):
        search(project, strict=True, budgets=CYCLES)


def test_a_refused_operator_is_not_predicted(project: Project) -> None:
    (found,) = profile(project, share="25 %").targets
    with Lut.open(project.lut_path) as lut:
        rows = {row.subject for row in lut.rows(found.stack, subject="operator")}
        missing = next(op for op in project.space.chain("int8").operators if op not in rows)
        lut.put_failure(found.stack, missing, "cycles", "does not fit the arena")
    with pytest.raises(LutError, match="1 operators of this space could not be measured"):
        search(project)


def test_a_share_that_is_none(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "-C", str(project.folder), "--share", "a quarter"]) == 2
    assert 'write for example "25 %"' in capsys.readouterr().err
