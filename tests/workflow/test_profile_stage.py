"""The profile stage: what it refuses before it measures."""

from __future__ import annotations

from pathlib import Path

import pytest

from profilers.lut import Lut
from targets.session import describe
from tests.workflow.projects import make_project
from toolchain.errors import ConfigurationError, LutError
from toolchain.workflow.costs import open_costs
from toolchain.workflow.profile import profile
from toolchain.workflow.project import open_project
from toolchain.workflow.search import search


def test_a_precision_that_the_target_does_not_run_is_refused_before_measuring(tmp_path: Path) -> None:
    project = open_project(make_project(tmp_path / "p", url="cpu:torch", precision="int8"))
    with pytest.raises(ConfigurationError, match="takes no int8 model") as caught:
        profile(project)
    assert 'target.precision = "float32"' in caught.value.remedy
    with Lut.open(project.lut_path) as lut:
        assert not list(lut.rows())


def test_threads_are_part_of_the_stack(tmp_path: Path) -> None:
    """Rows of one thread and of two never mix: neither is taken for the other, in tables, prices or calibrations."""
    folder = make_project(tmp_path / "p", budgets='latency = "10 s"')
    one, two = (open_project(folder, f"cpu:litert?threads={n}") for n in (1, 2))
    (first,) = profile(one).targets
    assert open_project(folder).config.target[0].url == "cpu:litert"
    assert describe("cpu:litert").stack == first.stack  # one thread is what a URL without says
    with pytest.raises(LutError, match="no rows of cpu:litert"):
        search(two)
    (second,) = profile(two).targets
    assert second.operators.measured == first.operators.measured > 0
    fields = [dict(found.stack.fields) for found in (first, second)]
    assert {key for key in fields[0] if fields[0][key] != fields[1][key]} == {"threads"}
    with Lut.open(one.lut_path) as lut:
        for found in (first, second):
            rows = lut.rows(found.stack, "latency_us", subject="operator")
            assert len(rows) == found.operators.measured
            calibration = lut.calibration(found.stack, "latency_us")
            assert calibration is not None
            assert found.stack.fingerprint in calibration.text
    prices = [open_costs(project, ["latency_us"]).targets[0] for project in (one, two)]
    assert [found.stack for found in prices] == [first.stack, second.stack]
