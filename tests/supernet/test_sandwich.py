"""The sandwich rule: who learns from whom, and that a resumed training is the same training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.spaces.own import Dense
from toolchain.errors import ConfigurationError
from toolchain.search.evaluators import evaluate_inherited, recalibration_batches
from toolchain.supernet import Supernet
from toolchain.supernet.sandwich import train_sandwich

CPU = torch.device("cpu")
SPACE = Dense()
LARGEST = max(SPACE, key=lambda a: sum(p.numel() for p in SPACE.module(a).parameters()))
SMALLEST = min(SPACE, key=lambda a: sum(p.numel() for p in SPACE.module(a).parameters()))


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(48, 12)).astype(np.float32), rng.integers(3, size=48)
    x[np.arange(48), y] += 4
    return x, y


def train(data, epochs=3, **settings):
    torch.manual_seed(0)
    supernet = Supernet(SPACE)
    ends = {"largest": LARGEST, "smallest": SMALLEST, "sample": SPACE.sample, "batch_size": 16}
    return supernet, train_sandwich(supernet, *data, epochs=epochs, **ends | settings)


def equal(a, b):
    for one, other in zip(a.state_dict().values(), b.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_one_step_is_labels_for_the_largest_and_its_answers_for_the_others(data):
    torch.manual_seed(0)
    twin = Supernet(SPACE)
    x, y = torch.from_numpy(data[0]), torch.from_numpy(data[1])
    rate = {"learning_rate": 0.01, "weight_decay": 0.0}
    supernet, _ = train(data, epochs=1, batch_size=48, paths=3, **rate)
    logits = twin.forward_architecture(x, LARGEST)
    answers = logits.detach().softmax(1)
    loss = functional.cross_entropy(logits, y)
    for path in (SMALLEST, SPACE.sample(np.random.default_rng([0, 0]))):
        log_probabilities = functional.log_softmax(twin.forward_architecture(x, path), 1)
        loss = loss - (answers * log_probabilities).sum(1).mean()
    loss.backward()
    for name, parameter in twin.named_parameters():
        if parameter.grad is None:  # a family on none of the three paths
            continue
        gradient = parameter.grad / (3 if name.startswith("head") else 1)
        moved = parameter - 0.01 * 1.9 * gradient  # Nesterov's first step
        torch.testing.assert_close(dict(supernet.named_parameters())[name], moved)


def test_training_learns_and_is_repeatable(data):
    supernet, losses = train(data, epochs=40)
    assert not supernet.training
    for end in (LARGEST, SMALLEST):
        assert evaluate_inherited(supernet, end, *data, recalibration_batches(data[0], CPU))[1] > 0.7
    again, same = train(data, epochs=40)
    assert same == losses
    equal(supernet, again)


def test_a_resumed_training_is_the_undisturbed_one(data, tmp_path):
    whole, losses = train(data)

    class Interrupted(Exception):
        pass

    def interrupt(done: int, total: int, line: str) -> None:
        if done == 2:
            raise Interrupted

    file = tmp_path / "sandwich.safetensors"
    with pytest.raises(Interrupted):
        train(data, checkpoint=file, progress=interrupt)
    resumed, same = train(data, checkpoint=file, resume=True)
    assert same == losses
    equal(whole, resumed)
    with pytest.raises(ConfigurationError, match="paths"):
        train(data, paths=5, checkpoint=file, resume=True)


def test_bfloat16_computes_in_another_precision_and_is_another_training(data, tmp_path):
    file = tmp_path / "sandwich.safetensors"
    supernet, losses = train(data, epochs=8, bfloat16=True, checkpoint=file)
    assert all(p.dtype == torch.float32 for p in supernet.parameters())
    assert losses != train(data, epochs=8)[1]
    assert losses == pytest.approx(train(data, epochs=8)[1], rel=0.1)
    with pytest.raises(ConfigurationError, match="bfloat16"):
        train(data, epochs=8, checkpoint=file, resume=True)


@pytest.mark.parametrize("settings", [{"paths": 1}, {"epochs": 0}, {"largest": (99,) * len(SPACE.choices)}])
def test_settings_out_of_range_are_refused(data, settings):
    with pytest.raises(ConfigurationError):
        train(data, **settings)
