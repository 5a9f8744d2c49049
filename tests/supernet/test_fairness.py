"""Strict fairness: who is trained how often, and that a resumed training is the same training."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from tests.spaces.own import Dense, Uneven
from toolchain.errors import ConfigurationError
from toolchain.spaces import ConNAS1d, Mobilenet, stages_of
from toolchain.supernet import Supernet
from toolchain.supernet.fairness import fair_paths, paths_per_step, train_fair


def uses(space, paths):
    """Per choice, how often each candidate stands in the paths."""
    table = np.array(paths)
    return [np.bincount(table[:, i], minlength=len(c.candidates)) for i, c in enumerate(space.choices)]


def test_each_candidate_once_a_step_where_all_are_available():
    space = ConNAS1d(length=16, channels=(8, 16), edges=3)
    dealt = fair_paths(space, np.random.default_rng(0))
    step = list(itertools.islice(dealt, 4))
    assert paths_per_step(space) == 5
    assert uses(space, step)[0].tolist() == [1, 1, 1, 1]
    many = step + list(itertools.islice(dealt, 16))
    assert [set(u.tolist()) for u in uses(space, many)] == [{5}, {4}, {5}]
    assert len(set(many)) > 10


def test_stages_deal_depths_and_configurations_fairly_at_any_moment():
    space = Mobilenet(input_shape=(1, 8, 8), widths=(4, 6), depth=4)
    assert paths_per_step(space) == 12
    paths = []
    for path in itertools.islice(fair_paths(space, np.random.default_rng(1)), 240):
        paths.append(path)
        assert space.valid(path)
        for used in uses(space, paths):
            assert np.ptp(used[: space.stages[0].none]) <= 1
    depths = np.array([space.depths(path) for path in paths])
    for stage in range(2):
        assert np.bincount(depths[:, stage]).tolist() == [0, 60, 60, 60, 60]
    one_step = uses(space, paths[:12])
    assert one_step[0].tolist() == [1] * 12
    assert one_step[4].tolist() == [1] * 12


def test_paths_are_valid_where_availability_depends_on_the_path():
    space = Uneven()
    paths = list(itertools.islice(fair_paths(space, np.random.default_rng(0)), 60))
    assert all(space.valid(path) for path in paths)
    seen = {(i, c) for path in paths for i, c in enumerate(path)}
    assert seen == {(i, s.candidate) for i, steps in enumerate(space.steps) for s in steps}


def test_a_users_space_may_have_stages_and_other_attributes_of_that_name():
    space = Dense()
    assert stages_of(space) == ()
    space.stages = 3  # type: ignore[attr-defined]
    assert stages_of(space) == ()
    assert stages_of(Mobilenet(widths=(4,), depth=2))[0].none == 12


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(48, 12)).astype(np.float32), rng.integers(3, size=48)
    x[np.arange(48), y] += 4
    return x, y


def train(data, epochs=3, **settings):
    torch.manual_seed(0)
    supernet = Supernet(Dense())
    return supernet, train_fair(supernet, *data, epochs=epochs, batch_size=16, **settings)


def test_training_learns_and_is_repeatable(data):
    supernet, losses = train(data, epochs=6)
    assert losses[-1] < 0.7 * losses[0]
    assert not supernet.training
    again, same = train(data, epochs=6)
    assert same == losses
    for a, b in zip(supernet.state_dict().values(), again.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_a_resumed_training_is_the_undisturbed_one(data, tmp_path):
    whole, losses = train(data)

    class Interrupted(Exception):
        pass

    def interrupt(done: int, total: int, line: str) -> None:
        if done == 2:
            raise Interrupted

    file = tmp_path / "fair.safetensors"
    with pytest.raises(Interrupted):
        train(data, checkpoint=file, progress=interrupt)
    resumed, same = train(data, checkpoint=file, resume=True)
    assert same == losses
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    with pytest.raises(ConfigurationError, match="paths"):
        train(data, paths=2, checkpoint=file, resume=True)


def test_one_step_is_the_sum_over_paths_with_stem_and_head_averaged(data):
    torch.manual_seed(0)
    supernet = Supernet(Dense())
    twin = Supernet(Dense())
    twin.load_state_dict(supernet.state_dict())
    x, y = data
    train_fair(supernet, x, y, epochs=1, batch_size=48, learning_rate=0.01, weight_decay=0.0)
    dealt = fair_paths(twin.space, np.random.default_rng([0, 0]))
    loss = sum(
        torch.nn.functional.cross_entropy(
            twin.forward_architecture(torch.from_numpy(x), next(dealt)), torch.from_numpy(y)
        )
        for _ in range(4)
    )
    loss.backward()
    for name, parameter in twin.named_parameters():
        gradient = parameter.grad / (4 if name.startswith("head") else 1)
        moved = parameter - 0.01 * 1.9 * gradient  # Nesterov's first step
        torch.testing.assert_close(dict(supernet.named_parameters())[name], moved)


def test_bfloat16_is_close_and_is_another_training(data, tmp_path):
    file = tmp_path / "fair.safetensors"
    supernet, losses = train(data, bfloat16=True, checkpoint=file)
    assert all(p.dtype == torch.float32 for p in supernet.parameters())
    exact = train(data)[1]
    assert losses != exact
    assert losses == pytest.approx(exact, rel=0.05)
    with pytest.raises(ConfigurationError, match="bfloat16"):
        train(data, checkpoint=file, resume=True)


def test_settings_out_of_range_are_refused(data):
    with pytest.raises(ConfigurationError, match="positive"):
        train(data, paths=0)
