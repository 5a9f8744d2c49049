"""The training loop: it learns, repeats, resumes, and says what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from toolchain.errors import ConfigurationError, DataError
from toolchain.supernet import train
from toolchain.supernet.train import accuracy, cosine, evaluate, shifted, shuffled_batches, train_network

torch.set_num_threads(1)


def data(samples: int = 160, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three classes: a bump at one of three places of an 8-step window, in noise."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, samples)
    x = rng.normal(0, 0.5, (samples, 2, 8)).astype(np.float32)
    x[np.arange(samples), 0, 1 + 2 * y] += 2.0
    return x, y


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv1d(2, 8, 3, padding=1),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(64, 3),
    )


def fit(module: nn.Module, **settings: Any) -> Any:
    x, y = data()
    x_val, y_val = data(90, seed=1)
    defaults = {"epochs": 5, "batch_size": 32, "learning_rate": 0.05}
    return train_network(module, x, y, x_val=x_val, y_val=y_val, **{**defaults, **settings})


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_it_learns_and_restores_the_best(optimizer: str) -> None:
    module = net()
    rate = 0.05 if optimizer == "sgd" else 0.01
    report = fit(module, optimizer=optimizer, learning_rate=rate, epochs=8, label_smoothing=0.05)
    assert len(report.train_loss) == len(report.val_accuracy) == 8
    assert report.val_accuracy[report.best_epoch] == max(report.val_accuracy) > 0.9
    loss, right = evaluate(module, *data(90, seed=1))
    assert right == report.val_accuracy[report.best_epoch] == accuracy(module, *data(90, seed=1))
    assert loss == pytest.approx(report.val_loss[report.best_epoch])
    assert not module.training


def test_the_cosine_schedule() -> None:
    ends = (
        cosine(0.4, 0.1, -1),
        cosine(0.4, 0.1, 0),
        cosine(0.4, 0.1, 0.5),
        cosine(0.4, 0.1, 1),
        cosine(0.4, 0.1, 2),
    )
    assert ends == pytest.approx((0.4, 0.4, 0.25, 0.1, 0.1))


def test_every_step_takes_its_rate_from_the_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def still(first: float, last: float, progress: float) -> float:
        assert (first, last) == (0.05, 0.001)
        asked.append(progress)
        return 0.0

    monkeypatch.setattr(train, "cosine", still)
    module = net()
    before = [p.detach().clone() for p in module.parameters()]
    fit(module, epochs=2, final_learning_rate=0.001)  # 160 samples: 5 steps an epoch
    assert asked == pytest.approx([step / 10 for step in range(10)])
    assert all(
        torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True)
    )  # rate 0: nothing moves


def test_the_same_seed_gives_the_same_weights_and_another_does_not() -> None:
    first, second, other = net(), net(), net()
    assert fit(first, shift=1) == fit(second, shift=1)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    fit(other, shift=1, seed=1)
    assert not torch.equal(first[0].weight, other[0].weight)


def test_training_leaves_the_callers_generator_alone() -> None:
    module = net()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    fit(module, epochs=1)
    assert torch.equal(torch.rand(1), expected)


class Stop(Exception):
    pass


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_stopped_run_resumes_to_the_same_result(tmp_path: Path, optimizer: str) -> None:
    def stop(done: int, total: int, line: str) -> None:
        if done == 3:
            raise Stop

    path = tmp_path / "train.safetensors"
    whole, module = net(), net()
    expected = fit(whole, optimizer=optimizer, learning_rate=0.01)
    with pytest.raises(Stop):
        fit(module, optimizer=optimizer, learning_rate=0.01, checkpoint=path, progress=stop)
    resumed = net(seed=9)  # its weights come from the file
    report = fit(resumed, optimizer=optimizer, learning_rate=0.01, checkpoint=path, resume=True)
    assert report == expected
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ConfigurationError, match=r"written with learning_rate = 0.01, this run has 0.02"):
        fit(net(), optimizer=optimizer, learning_rate=0.02, checkpoint=path, resume=True)


def test_keep_last() -> None:
    module = net()
    report = fit(module, keep="last", epochs=3)
    assert accuracy(module, *data(90, seed=1)) == report.val_accuracy[-1]


def test_a_loss_that_explodes_names_the_learning_rate() -> None:
    with pytest.raises(ConfigurationError, match="lower the learning rate"):
        fit(net(), learning_rate=1e30)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x, y: (x[:-1], y), "must pair up"),
        (lambda x, y: (np.where(x == x[0, 0, 0], np.nan, x), y), "NaN"),
        (lambda x, y: (x, y + 1), "beyond the network's 3 classes"),
        (lambda x, y: (x, y - 1), "integers from 0"),
        (lambda x, y: (x, y.astype(float)), "integers from 0"),
        (lambda x, y: (x[:, :1], y), "do not fit the network"),
        (lambda x, y: (x[:0], y[:0]), "must pair up"),
    ],
)
def test_broken_data_is_named(spoil: Any, message: str) -> None:
    x, y = data()
    x_val, y_val = data(20, seed=1)
    with pytest.raises(DataError, match=message):
        train_network(net(), *spoil(x, y), x_val=x_val, y_val=y_val, epochs=1)


def test_settings_out_of_range() -> None:
    with pytest.raises(ConfigurationError, match="out of range"):
        fit(net(), epochs=0)
    with pytest.raises(ConfigurationError, match="unknown optimizer"):
        fit(net(), optimizer="lion")


def test_a_last_batch_of_one_is_left_out() -> None:
    generator = torch.Generator().manual_seed(0)
    assert [len(b) for b in shuffled_batches(9, 4, generator)] == [4, 4]
    assert [len(b) for b in shuffled_batches(10, 4, generator)] == [4, 4, 2]
    assert [len(b) for b in shuffled_batches(1, 4, generator)] == [1]


@pytest.mark.parametrize("shape", [(6, 2, 9), (6, 2, 5, 7)])
def test_shift_moves_each_sample_and_fills_with_zeros(shape: tuple[int, ...]) -> None:
    x = torch.arange(1.0, 1 + float(np.prod(shape))).reshape(shape)
    moved = shifted(x, 2, torch.Generator().manual_seed(3))
    assert moved.shape == x.shape
    padded = nn.functional.pad(x, (2, 2) * (x.ndim - 2))
    places = []
    for sample, original in zip(moved, padded, strict=True):
        options = [
            at
            for at in np.ndindex(*(5,) * (x.ndim - 2))
            if torch.equal(
                sample,
                original[(slice(None), *(slice(a, a + n) for a, n in zip(at, x.shape[2:], strict=True)))],
            )
        ]
        assert len(options) == 1
        places.append(options[0])
    assert len(set(places)) > 1
