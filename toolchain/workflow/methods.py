"""ConNAS, evolution and random search in a project, each with a supernet that is kept.

A trained supernet depends on data, space, seed and settings. ConNAS trains its own under the budgets of the first
search; the baselines' knows no budgets. Either is kept, with every score that was found with it, so that a search
under other budgets or corrected costs trains nothing: ConNAS' then selects among the networks it passed, and evolves
from them, by validation loss with the kept weights. `boardfit search --force` searches anew.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from toolchain.files import write_atomic, write_json
from toolchain.report.plots import plot_search
from toolchain.search.connas import ConnasConfig, connas_search
from toolchain.search.connas_run import read_kept
from toolchain.search.evaluators import evaluate_inherited, recalibration_batches, train_supernet
from toolchain.search.evolution import evolve
from toolchain.search.front import explore_front
from toolchain.search.protocols import Evaluation, SearchResult
from toolchain.search.random_search import random_search
from toolchain.search.trace import epochs_of, write_trace
from toolchain.spaces import Architecture
from toolchain.supernet import Supernet
from toolchain.supernet.checkpoint import load_checkpoint, save_checkpoint
from toolchain.units import Budget
from toolchain.workflow.binas import PLOTS, can_draw
from toolchain.workflow.config import SearchSection
from toolchain.workflow.costs import Costs
from toolchain.workflow.project import Progress, Project, fingerprint

_MADE_FOR: Final = "made_for"
_SAVED_EVERY: Final = 25  # scores
_AROUND: Final = (
    64  # networks that are scored beside those of a gradient search, to show what lies around its answer
)


def front_metric(costs: Costs, limits: Iterable[Budget]) -> str:
    """The cost against which networks are set: the first budgeted one that is a sum, else the first."""
    how = dict(zip(costs.table.metrics, costs.table.combines, strict=True))
    return next(name for name in (*(b.metric for b in limits), *how) if how[name] == "sum")


def connas_config(settings: SearchSection, seed: int) -> ConnasConfig:
    """The preset's settings with those of the project file in their place."""
    base = ConnasConfig.quick(seed=seed) if settings.preset == "quick" else ConnasConfig(seed=seed)
    given = {
        "epochs": settings.epochs,
        "batch_size": settings.batch_size,
        "learning_rate": settings.learning_rate,
        "final_learning_rate": None if settings.learning_rate is None else settings.learning_rate / 10,
        "alpha_learning_rate": settings.alpha_learning_rate,
        "rescale": settings.rescale,
        "relaxation": settings.relaxation,
    }
    changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    return replace(base, **changes)


def connas(
    project: Project,
    costs: Costs,
    limits: tuple[Budget, ...],
    checkpoint: Path,
    progress: Progress,
    *,
    force: bool,
) -> SearchResult:
    """ConNAS; or its answer to other budgets or costs, from the supernet that an earlier search trained.

    Args:
        checkpoint: of an unfinished search under these very budgets and costs.
        force: search anew.
    """
    data, config = project.data, connas_config(project.config.search, project.config.project.seed)
    supernet, kept, trained = _untrained(project, "connas", asdict(config), force)

    def step(done: int, total: int, note: str) -> None:
        progress("search", done, total, note)

    if kept.exists() and not checkpoint.exists() and _made_for(kept) == checkpoint.name:
        write_atomic(
            checkpoint, kept.read_bytes()
        )  # the very search that it comes from: the same answer again
    if checkpoint.exists() or not kept.exists():
        result = connas_search(
            supernet,
            costs.table,
            limits,
            x=data.x["train"],
            y=data.y["train"],
            x_val=data.x["val"],
            y_val=data.y["val"],
            checker=costs.exact,
            config=config,
            progress=step,
            checkpoint=checkpoint,
            resume=True,
        )
        # A copy: killed before the result is recorded, the next run goes on from the checkpoint and finds the same.
        found = load_checkpoint(checkpoint)
        save_checkpoint(kept, found.tensors, {**found.metadata, _MADE_FOR: checkpoint.name})
        _leave_trace(project, result, limits)
        read_kept(kept, supernet)
        scores = KeptScores(project, supernet, trained)
        around = explore_front(
            costs.table,
            scores,
            [a for a, _ in result.evaluated],
            front_metric(costs, limits),
            evaluations=len(result.evaluated) + _AROUND,
            seed=config.seed,
            progress=lambda done, total, note: progress("front", done, total, note),
        )
        scores.save()
        return replace(result, evaluations=len(around), evaluated=tuple(around.items()))
    recorded, history = read_kept(kept, supernet)
    scores = KeptScores(project, supernet, trained)
    passed = dict.fromkeys(r.architecture for r in sorted(recorded, key=lambda r: (r.loss, r.epoch)))
    result = evolve(
        costs.table,
        scores.by_loss,
        limits,
        sample=_those_first(passed, project),
        evaluations=project.config.search.samples,
        checker=costs.exact,
        seed=config.seed,
        progress=lambda done, total, note: progress("select", done, total, "kept supernet"),
    )
    scores.save()
    accuracy = scores.accuracy
    return replace(
        result,
        method="connas",
        score=accuracy(result.architecture),
        alternatives=tuple((a, accuracy(a)) for a, _ in result.alternatives),
        evaluated=tuple((a, accuracy(a)) for a, _ in result.evaluated),
        history=history,
    )


def _made_for(kept: Path) -> str:
    """Name of the checkpoint of the search that a kept supernet comes from."""
    return str(load_checkpoint(kept).metadata.get(_MADE_FOR, ""))


def _leave_trace(project: Project, result: SearchResult, budgets: tuple[Budget, ...]) -> None:
    """The log of every alpha step as a table, and the course of the search as a picture where matplotlib is there."""
    write_trace(result.history, project.results / "search.csv")
    if can_draw():
        plot_search(epochs_of(result.history), budgets, project.results / PLOTS / "search")


def _those_first(passed: dict[Architecture, None], project: Project) -> Any:
    """A sampler that draws the networks of an earlier search before random ones."""
    waiting: Iterator[Architecture] = iter(passed)

    def sample(rng: np.random.Generator) -> Architecture:
        return next(waiting, None) or project.space.sample(rng)

    return sample


def baseline(
    project: Project,
    costs: Costs,
    limits: tuple[Budget, ...],
    method: str,
    progress: Progress,
    *,
    force: bool,
) -> SearchResult:
    """Evolution or random search on a supernet trained with uniform sampling.

    Args:
        force: train and score anew.
    """
    data, schedule = project.data, connas_config(project.config.search, project.config.project.seed)
    settings: dict[str, Any] = {
        "epochs": schedule.epochs,
        "batch_size": schedule.batch_size,
        "learning_rate": schedule.learning_rate,
    }
    supernet, kept, trained = _untrained(project, "uniform", settings, force)
    train_supernet(
        supernet,
        data.x["train"],
        data.y["train"],
        sample=project.space.sample,
        **settings,
        seed=schedule.seed,
        progress=lambda done, total, note: progress("supernet", done, total, note),
        checkpoint=kept,
        resume=True,
    )
    scores = KeptScores(project, supernet, trained)
    searcher = evolve if method == "evolution" else random_search
    result = searcher(
        costs.table,
        scores,
        limits,
        sample=project.space.sample,
        evaluations=project.config.search.samples,
        checker=costs.exact,
        seed=schedule.seed,
        progress=lambda done, total, note: progress("search", done, total, note),
    )
    scores.save()
    return result


def _untrained(
    project: Project, kind: str, settings: dict[str, Any], force: bool
) -> tuple[Supernet, Path, str]:
    """A supernet, where its trained weights are kept, and the fingerprint of all that they depend on."""
    config = project.config
    torch.set_num_threads(config.project.threads)
    torch.manual_seed(config.project.seed)
    trained = fingerprint(
        kind,
        settings,
        config.project.seed,
        config.project.threads,
        project.data.fingerprint,
        project.space_fingerprint,
    )
    kept = project.checkpoint(f"supernet-{kind}-{trained}.safetensors")
    if force:
        kept.unlink(missing_ok=True)
        _scores_path(project, trained).unlink(missing_ok=True)
    return Supernet(project.space), kept, trained


def _scores_path(project: Project, trained: str) -> Path:
    return project.checkpoint(f"scores-{trained}.json")


class KeptScores:
    """Validation loss and accuracy of networks with a supernet's weights; an `Evaluator` that remembers on the disk.

    Args:
        supernet: trained; not changed.
        trained: fingerprint of everything that its weights depend on.
    """

    def __init__(self, project: Project, supernet: Supernet, trained: str) -> None:
        self._project, self._supernet = project, supernet
        self._path = _scores_path(project, trained)
        self._batches = recalibration_batches(project.data.x["train"], torch.device("cpu"))
        self._known: dict[str, list[float]] = {}
        self._fresh = 0
        try:
            self._known = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self._known = {}  # none yet, or damaged: scored again

    def __call__(self, architectures: Sequence[Architecture]) -> list[Evaluation]:
        """Accuracy from 0 to 1 with its standard error; in order."""
        samples = len(self._project.data.y["val"])
        found = [self._score(a)[1] for a in architectures]
        return [Evaluation(right, math.sqrt(right * (1 - right) / samples)) for right in found]

    def by_loss(self, architectures: Sequence[Architecture]) -> list[Evaluation]:
        """Cross-entropy, negative: larger is better."""
        return [Evaluation(-self._score(a)[0]) for a in architectures]

    def accuracy(self, architecture: Architecture) -> float:
        return self._score(architecture)[1]

    def save(self) -> None:
        if self._fresh:
            write_json(self._path, self._known)
        self._fresh = 0

    def _score(self, architecture: Architecture) -> list[float]:
        text, data = self._project.space.encode(architecture), self._project.data
        if text not in self._known:
            x, y = data.x["val"], data.y["val"]
            self._known[text] = list(evaluate_inherited(self._supernet, architecture, x, y, self._batches))
            self._fresh += 1
            if self._fresh == _SAVED_EVERY:
                self.save()
        return self._known[text]
