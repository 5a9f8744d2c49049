"""The profile stage: what it refuses before it measures."""

from __future__ import annotations

from pathlib import Path

import pytest

from profilers.lut import Lut
from tests.workflow.projects import make_project
from toolchain.errors import ConfigurationError
from toolchain.workflow.profile import profile
from toolchain.workflow.project import open_project


def test_a_precision_that_the_target_does_not_run_is_refused_before_measuring(tmp_path: Path) -> None:
    project = open_project(make_project(tmp_path / "p", url="cpu:torch", precision="int8"))
    with pytest.raises(ConfigurationError, match="takes no int8 model") as caught:
        profile(project)
    assert 'target.precision = "float32"' in caught.value.remedy
    with Lut.open(project.lut_path) as lut:
        assert not list(lut.rows())
