"""Running random sub-networks: budgets, resuming, nothing left behind in the supernet."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from toolchain.errors import ConfigurationError
from toolchain.search.estimators.paths import sample_paths
from toolchain.spaces import Mobilenet
from toolchain.supernet import Supernet, recalibrate_bn


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    torch.manual_seed(0)
    space = Mobilenet(
        input_shape=(1, 4, 4),
        classes=3,
        widths=(4, 5),
        depth=2,
        expansions=(2,),
        kernels=(3,),
        stem_channels=3,
    )
    return Supernet(space).eval()


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(50, 1, 4, 4)).astype(np.float32), rng.integers(3, size=50)


def run(supernet, data, samples=120, **settings):
    settings = {"samplers": [supernet.space.sample_by_depth], "group": 8, "companion_count": 6, **settings}
    return sample_paths(supernet, *data, samples=samples, companions=data[0], **settings)


def test_a_budget_is_kept_and_a_smaller_one_is_the_beginning_of_a_larger(supernet, data):
    many = run(supernet, data)
    assert 120 <= many.samples < 128
    assert many.total.tolist()[:8] == [8, 8, 8, 8, 8, 8, 2, 8]  # 50 inputs a pass
    assert ((many.right >= 0) & (many.right <= many.total)).all()
    few = run(supernet, data, samples=30)
    for name in ("architectures", "right", "total"):
        np.testing.assert_array_equal(getattr(few, name), getattr(many.first(30), name))
    assert len({tuple(a) for a in many.architectures.tolist()}) > 5
    other = run(supernet, data, seed=1)
    assert (other.architectures[:8] != many.architectures[:8]).any()


def test_right_answers_are_those_of_the_network_with_batch_statistics(supernet, data):
    x, y = data
    paths = sample_paths(
        supernet, x, y, samplers=[supernet.space.sample_by_depth], samples=50, group=50, statistics="batch"
    )
    module = supernet.extract(tuple(paths.architectures[0].tolist()))
    batch = torch.from_numpy(x)
    recalibrate_bn(module, [batch])
    for norm in module.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.track_running_stats = False  # eval mode then uses the batch's own statistics
            norm.running_mean = norm.running_var = None
    right = (module.eval()(batch).argmax(1).numpy() == y).sum()
    assert paths.right.tolist() == [right]


def test_running_statistics_give_the_evaluated_network(supernet, data):
    x, y = data
    paths = run(supernet, data, statistics="running", group=50, samples=50)
    architecture = tuple(paths.architectures[0].tolist())
    answers = supernet.forward_architecture(torch.from_numpy(x), architecture).argmax(1).numpy()
    assert paths.right.tolist() == [(answers == y).sum()]


@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_the_supernet_is_as_it_was(supernet, data, statistics):
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    run(supernet, data, statistics=statistics)
    assert not supernet.training
    for name, tensor in supernet.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


def test_an_interrupted_run_goes_on_to_the_same_result(supernet, data, tmp_path, monkeypatch):
    whole = run(supernet, data)
    monkeypatch.setattr("toolchain.search.estimators.paths._SAVE_EVERY", 4)
    file = tmp_path / "paths.npz"

    class Interrupted(Exception):
        pass

    def interrupt(done: int, total: int, line: str) -> None:
        assert total == 120
        assert "mean accuracy" in line
        if done > 40:
            raise Interrupted

    with pytest.raises(Interrupted):
        run(supernet, data, checkpoint=file, progress=interrupt)
    seen = []
    again = run(supernet, data, checkpoint=file, resume=True, progress=lambda d, t, s: seen.append(d))
    assert seen[0] > 60  # what was done was not done again
    for name in ("architectures", "right", "total", "samplers"):
        np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))
    fewer = run(supernet, data, samples=30, checkpoint=file, resume=True)
    np.testing.assert_array_equal(fewer.right, whole.first(30).right)


def test_checkpoints_of_other_runs_and_damaged_ones_are_refused(supernet, data, tmp_path):
    file = tmp_path / "paths.npz"
    run(supernet, data, samples=20, checkpoint=file)
    with pytest.raises(ConfigurationError, match="seed"):
        run(supernet, data, samples=20, checkpoint=file, resume=True, seed=3)
    torch.manual_seed(1)
    with pytest.raises(ConfigurationError, match="weights"):
        run(Supernet(supernet.space).eval(), data, samples=20, checkpoint=file, resume=True)
    for content in (b"", b"junk", file.read_bytes()[:200]):
        file.write_bytes(content)
        with pytest.raises(ConfigurationError, match="damaged"):
            run(supernet, data, samples=20, checkpoint=file, resume=True)


def test_several_samplers_take_turns(supernet, data):
    space = supernet.space
    samplers = [space.sample_by_depth, lambda rng: space.sample_by_depth(rng, {0: 1})]
    paths = run(supernet, data, samplers=samplers)
    assert paths.samplers.tolist()[:4] == [0, 1, 0, 1]
    assert (paths.architectures[paths.samplers == 1, 1] == space.stages[0].none).all()


def test_settings_out_of_range_are_refused(supernet, data):
    for wrong in ({"samples": 0}, {"group": 0}, {"samplers": []}, {"companion_count": -1}):
        with pytest.raises(ConfigurationError, match="positive"):
            run(supernet, data, **wrong)
    with pytest.raises(ConfigurationError, match="single input"):
        run(supernet, data, group=1, companion_count=0)
