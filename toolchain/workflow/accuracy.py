"""One network's accuracy from step to step: foretold by the search, trained, in int8, on the targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolchain.measurement import Evidence
from toolchain.workflow.project import Project


@dataclass(frozen=True)
class AccuracyStep:
    """One figure.

    Attributes:
        step: "estimator" (contributions or a fit), "supernet" (inherited weights), "float" (trained), "int8", "target".
        accuracy: share of right answers, 0 to 1.
        split: of the data, "val" or "test": figures of one split can be compared with one another.
        samples: in it.
        evidence: predicted; computed by the references of this machine; counted on the target.
        target: its name, for "target".
    """

    step: str
    accuracy: float
    split: str
    samples: int
    evidence: Evidence
    target: str = ""


def accuracy_steps(
    project: Project,
    found: Mapping[str, Any],
    exported: Mapping[str, Any],
    deployed: Sequence[tuple[str, float, int]],
) -> tuple[AccuracyStep, ...]:
    """All steps in order.

    Args:
        found, exported: records of search and export.
        deployed: (target, accuracy, samples) of each target that the network ran on.
    """
    val, test = (len(project.data.y[split]) for split in ("val", "test"))
    steps = []
    if found.get("selection"):
        foretold = found["selection"]["predicted_accuracy"]
        steps.append(AccuracyStep("estimator", foretold, "val", val, Evidence.PREDICTED))
    steps.append(AccuracyStep("supernet", found["score"], "val", val, Evidence.PREDICTED))
    if "validation_accuracy" in exported:
        trained = exported["validation_accuracy"]
        steps.append(AccuracyStep("float", trained, "val", val, Evidence.COMPUTED))
    steps += [
        AccuracyStep(kind, exported["accuracy"][kind], "test", test, Evidence.COMPUTED)
        for kind in ("float", "int8")
        if kind in exported["accuracy"]
    ]
    steps += [
        AccuracyStep("target", accuracy, "test", samples, Evidence.COUNTED, name)
        for name, accuracy, samples in deployed
    ]
    return tuple(steps)
