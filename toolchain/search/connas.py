"""ConNAS: gradient search on a supernet whose architecture gradients are turned towards feasibility.

Source: ConNAS (under review, ICLR 2026), Algorithm 1 and section 4; the direction is `toolchain.search.direction`.
A constraint is tested on the architecture that the alphas stand for now; a satisfied one changes nothing. For a
violated one, every single swap is priced and each edge's gradient is turned towards the candidates that help. After the
temperature has come down, each epoch's architecture is evaluated with inherited weights; the one with the lowest
validation loss that keeps the budgets, by the cost model and then by the exact checker, is returned.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from toolchain.errors import ConfigurationError
from toolchain.search.connas_alphas import Alphas, Decoder, argmax_decoder, path_decoder
from toolchain.search.connas_config import ConnasConfig
from toolchain.search.connas_run import Augment, Recorded, Run
from toolchain.search.evaluators import evaluate_inherited, recalibration_batches
from toolchain.search.feasibility import price_one, require_feasible
from toolchain.search.protocols import CostModel, ExactChecker, Progress, SearchResult
from toolchain.search.relaxations import Relaxation, gumbel_probabilities
from toolchain.search.selection import choose
from toolchain.supernet.shared import SharedWeights
from toolchain.supernet.train import Array, as_tensors, decayed_groups, device_of
from toolchain.units import Budget

__all__ = [
    "Alphas",
    "ConnasConfig",
    "Decoder",
    "Relaxation",
    "argmax_decoder",
    "connas_search",
    "gumbel_probabilities",
    "path_decoder",
]


def connas_search(
    supernet: SharedWeights,
    cost: CostModel,
    budgets: Sequence[Budget],
    *,
    x: Array,
    y: Array,
    x_val: Array,
    y_val: Array,
    checker: ExactChecker | None = None,
    config: ConnasConfig | None = None,
    relaxation: Relaxation | None = None,
    augment: Augment | None = None,
    progress: Progress | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
) -> SearchResult:
    """Search one architecture under budgets by ConNAS; trains the supernet's weights on the way.

    The result's score is validation accuracy with inherited weights. History rows, one per alpha step, hold
    `loss/train`, `loss/validation` and `accuracy/validation` of the mixture, `temperature`, `entropy`, `gradient/raw`,
    `gradient/modified`, `opposed`, and per budget `cost/<metric>` and `violation/<metric>` of the architecture before
    the step; the last row of each epoch after the annealing also `candidate/loss` and `candidate/accuracy`.
    `toolchain.search.trace` writes and sums them up.

    With a loss-based method (`enforce`) the search itself may end outside the budgets; what is returned keeps them all
    the same, and `repaired` says that it is none of the search's own.

    Args:
        supernet: trained in place; on the device where its weights are.
        cost: the cost model of the same space.
        budgets: hard upper bounds on any of its metrics; at most one per metric.
        x, y: data for the weights, numpy in torch's layout. x_val, y_val: data for the alphas and for the choice.
        checker: exact check of the final pick; None accepts the cost model's word.
        config: see `ConnasConfig`.
        relaxation: how logits become probabilities, in place of the one that the settings name.
        augment: changes the inputs of weight steps, (batch, generator on the CPU) -> batch; alpha steps see them as
            they are.
        progress: called after each epoch.
        checkpoint: rewritten atomically after each epoch, so a run may be killed at any moment.
        resume: continue from `checkpoint` where it exists; the result is that of an undisturbed run.

    Raises:
        InfeasibleError: no architecture keeps the budgets (raised before any training), or none passes the exact check.
        ConfigurationError: bad settings, a loss that is not finite, or a checkpoint of another search.
        DataError: broken data.
    """
    config = config or ConnasConfig()
    rng = np.random.default_rng(config.seed)
    require_feasible(cost, budgets, rng)
    device = device_of(supernet)
    inputs, labels = as_tensors(x, y, device, "training data")
    inputs_val, labels_val = as_tensors(x_val, y_val, device, "validation data")
    _check_classes(labels, labels_val, supernet.space.classes)
    recalibration = recalibration_batches(
        x, device, config.recalibration_batches, config.recalibration_batch_size, config.seed
    )
    sizes = [len(choice.candidates) for choice in supernet.space.choices]
    alphas = Alphas(sizes, path_decoder(supernet.space.steps), cost, budgets, config, device)
    optimizer = torch.optim.SGD(
        decayed_groups(supernet, config.weight_decay), lr=config.learning_rate, momentum=0.9, nesterov=True
    )
    run = Run(supernet, alphas, optimizer, config)
    settings = {
        "config": json.loads(json.dumps(asdict(config))), "space": supernet.space.name, "candidates": sizes,
        "budgets": [[b.metric, b.bound] for b in budgets], "samples": [len(x), len(x_val)],
    }  # fmt: skip
    if resume and checkpoint is not None and checkpoint.exists():
        run.load(checkpoint, settings)

    if progress is not None and run.epoch < config.epochs:
        progress(run.epoch, config.epochs, "")  # an epoch may take long
    for epoch in range(run.epoch, config.epochs):
        passed = run.train_epoch(epoch, inputs, labels, inputs_val, labels_val, relaxation, augment)
        architecture = alphas.architecture()
        if epoch >= max(config.anneal_epochs, config.warmup_epochs):
            for candidate in (architecture, *passed)[: config.candidates]:
                loss, right = evaluate_inherited(supernet, candidate, x_val, y_val, recalibration)
                run.note_candidate(Recorded(epoch, candidate, loss, right))
        run.epoch = epoch + 1
        if checkpoint is not None:
            run.save(checkpoint, settings)
        if progress is not None:
            progress(epoch + 1, config.epochs, run.line(architecture))
    supernet.eval()

    ranked = sorted(run.recorded, key=lambda r: (r.loss, r.epoch))
    chosen = choose(
        cost,
        budgets,
        [r.architecture for r in ranked],
        checker,
        np.random.default_rng(config.seed),
        start=alphas.architecture(),
        score=lambda a: -evaluate_inherited(supernet, a, x_val, y_val, recalibration)[0],
    )
    best = chosen.architecture
    known = next((r.accuracy for r in ranked if r.architecture == best), None)
    others = {r.architecture: r.accuracy for r in reversed(ranked) if r.architecture != best}
    mask = {a: bool(alphas.limits.keeps(cost.price(np.array([a])))[0]) for a in others}
    return SearchResult(
        architecture=best,
        score=evaluate_inherited(supernet, best, x_val, y_val, recalibration)[1] if known is None else known,
        predicted=price_one(cost, best),
        exact=dict(chosen.exact),
        method="connas" if config.enforce == "direction" else config.enforce,
        seed=config.seed,
        evaluations=len({r.architecture for r in ranked}),
        repaired=chosen.repaired,
        history=run.history(),
        alternatives=tuple((a, s) for a, s in reversed(others.items()) if mask[a]),
        evaluated=tuple({r.architecture: r.accuracy for r in reversed(ranked)}.items()),
    )


def _check_classes(labels: Tensor, labels_val: Tensor, classes: int) -> None:
    highest = max(int(labels.max()), int(labels_val.max()))
    if highest >= classes:
        raise ConfigurationError(f"label {highest} is beyond the space's {classes} classes")
