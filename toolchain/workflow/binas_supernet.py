"""What BINAS learns before it selects: a supernet, accuracy contributions, and how well they rank random networks.

All of it depends on data, space, seed and its own settings, not on budgets or prices, and is kept in the project.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from toolchain.files import write_json
from toolchain.report.plots import RankingPicture
from toolchain.search.estimators import (
    AdditiveEstimator,
    Encoding,
    choice_contributions,
    fit_ridge,
    rank_quality,
    stage_contributions,
)
from toolchain.search.estimators.paths import sample_paths
from toolchain.search.evaluators import SupernetEvaluator, recalibration_batches, train_supernet
from toolchain.search.protocols import Architecture, Sampler
from toolchain.spaces import Mobilenet, stages_of
from toolchain.supernet import Supernet
from toolchain.supernet.fairness import train_fair
from toolchain.workflow.project import Progress, Project, fingerprint

METHOD: Final = "binas"
SUPERNET_EPOCHS, SUPERNET_BATCH, SUPERNET_RATE = 40, 32, 0.05
RANKING_SEED: Final = 0x4A4D
FITTED_SAMPLES: Final = 64_000  # a fit takes memory as the square of its rows, 16 samples each


@dataclass(frozen=True, eq=False)
class Contributions:
    """What predicts accuracies; contributions with standard errors, the mean accuracy, and samples behind them."""

    estimator: AdditiveEstimator
    measured: AdditiveEstimator
    mean: float
    samples: int


def trained_supernet(project: Project, progress: Progress, force: bool) -> tuple[Supernet, str]:
    """The trained supernet, and the fingerprint of everything that it depends on.

    Args:
        force: train again, and forget what was measured with it.
    """
    config, data = project.config, project.data
    settings = config.search
    schedule = {
        "epochs": settings.epochs or SUPERNET_EPOCHS,
        "batch_size": settings.batch_size or SUPERNET_BATCH,
        "learning_rate": settings.learning_rate or SUPERNET_RATE,
    }
    seed = config.project.seed
    trained = fingerprint(
        schedule, settings.sampling, seed, config.project.threads, data.fingerprint, project.space_fingerprint
    )
    path = project.checkpoint(f"{METHOD}-supernet-{trained}.safetensors")
    if force:  # all at once: interrupted, it is gone on with from what is new
        for kept in (path, _contributions_path(project, trained), _ranking_path(project, trained)):
            kept.unlink(missing_ok=True)
    torch.manual_seed(seed)
    supernet = Supernet(project.space)
    common: dict[str, Any] = {
        **schedule,
        "seed": seed,
        "progress": lambda done, total, note: progress("supernet", done, total, note),
        "checkpoint": path,
        "resume": True,
    }
    if settings.sampling == "fair":
        train_fair(supernet, data.x["train"], data.y["train"], **common)
    else:
        train_supernet(supernet, data.x["train"], data.y["train"], sample=_sampler(project), **common)
    return supernet, trained


def _contributions_path(project: Project, trained: str) -> Path:
    return project.checkpoint(f"{METHOD}-contributions-{trained}.npz")


def _ranking_path(project: Project, trained: str) -> Path:
    return project.checkpoint(f"{METHOD}-ranking-{trained}.json")


def _sampler(project: Project) -> Sampler:
    """How sub-networks are drawn, for training and for contributions: depths uniform where the space has depths."""
    space = project.space
    return space.sample_by_depth if isinstance(space, Mobilenet) else space.sample


def contributions_of(project: Project, supernet: Supernet, trained: str, progress: Progress) -> Contributions:
    """Contributions of all candidates within the sample budget; a larger budget goes on from a smaller one."""
    path = _contributions_path(project, trained)
    data, space = project.data, project.space
    paths = sample_paths(
        supernet,
        data.x["val"],
        data.y["val"],
        samplers=[_sampler(project)],
        samples=project.config.search.contribution_samples,
        companions=data.x["train"],
        seed=project.config.project.seed,
        checkpoint=path,
        resume=True,
        progress=lambda done, total, note: progress("contributions", done, total, note),
    )
    mean = float(paths.right.sum() / paths.samples)
    stages = stages_of(space)
    sizes = tuple(len(choice.candidates) for choice in space.choices)
    measured = (
        stage_contributions(paths, stages).estimator() if stages else choice_contributions(paths, sizes)
    )
    estimator = measured
    if project.config.search.estimator == "fitted":
        part = paths.first(FITTED_SAMPLES)
        fitted = fit_ridge(part.architectures, part.right / part.total, Encoding(sizes, stages), "linear")
        estimator = fitted.additive()
    return Contributions(estimator, measured, mean, paths.samples)


def evaluator_of(project: Project, supernet: Supernet) -> SupernetEvaluator:
    data = project.data
    batches = recalibration_batches(data.x["train"], torch.device("cpu"))
    return SupernetEvaluator(supernet, data.x["val"], data.y["val"], batches)


def ranking_of(
    project: Project,
    evaluator: SupernetEvaluator,
    estimator: AdditiveEstimator,
    trained: str,
    progress: Progress,
) -> tuple[RankingPicture, dict[Architecture, float]]:
    """Random networks, predicted and measured one by one, and their scores; kept for the next search."""
    path = _ranking_path(project, trained)
    known: dict[str, list[float]]
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}  # none yet, or damaged: measured again
    rng = np.random.default_rng([RANKING_SEED, project.config.project.seed])
    sampler = _sampler(project)
    count = project.config.search.ranking_networks
    drawn = list(dict.fromkeys(sampler(rng) for _ in range(count)))
    texts = [project.space.encode(a) for a in drawn]
    for number, (text, architecture) in enumerate(zip(texts, drawn, strict=True)):
        if text not in known:
            found = evaluator([architecture])[0]
            known[text] = [found.score, found.uncertainty]
            progress("ranking", number + 1, len(drawn), "random networks measured")
    write_json(path, known)
    measured = np.array([known[text] for text in texts]).reshape(len(texts), 2)
    predicted = estimator.predict(drawn)
    quality = rank_quality(predicted, measured[:, 0]) if len(drawn) > 1 else None
    picture = RankingPicture(
        predicted,
        measured[:, 0],
        measured[:, 1],
        quality.kendall if quality else math.nan,
        quality.spearman if quality else math.nan,
        len(project.data.y["val"]),
    )
    return picture, dict(zip(drawn, measured[:, 0].tolist(), strict=True))
