"""NATS-Bench's counts by formula, and the topology space as real networks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.nas_bench_201_supernet import crop_and_flip
from toolchain.errors import ConfigurationError
from toolchain.search.connas import ConnasConfig, connas_search
from toolchain.search.connas_table import TableCost
from toolchain.spaces.nasbench201 import (
    NasBench201,
    all_cells,
    all_widths,
    cell_string,
    size_params,
    size_peak_bytes,
)
from toolchain.supernet.nasbench201 import NasBench201Supernet, nasbench201_network
from toolchain.units import Budget

torch.set_num_threads(1)

SMALL = NasBench201((1, 8, 8), classes=3, channels=(4, 8, 8))


def test_the_papers_counts() -> None:
    space, cells, widths = NasBench201(), all_cells(), all_widths()
    params = space.params(cells)
    assert len(cells) == len(np.unique(cells, axis=0)) == 15_625
    assert int((params <= 127_514).sum()) == 7984
    assert 127_514 in params
    bound = space.flops([[2, 3, 4, 4, 4, 0]])[0]
    assert int((space.flops(cells) <= bound).sum()) == 7954
    # Thirty networks more have one 1x1, one 3x3 and four pools; they pass by parameters and fail by FLOPs.
    broken = cells[(params <= 127_514) & (space.flops(cells) > bound)]
    assert len(broken) == 30
    assert all(sorted(cell) == [2, 3, 4, 4, 4, 4] for cell in broken.tolist())
    sizes = size_params(widths)
    assert int((sizes <= 261_650).sum()) == 16_385
    assert int((sizes == 261_650).sum()) == 1
    assert int((size_peak_bytes(widths) <= 655_360).sum()) == 20_480


def test_the_official_records_of_the_benchmark() -> None:
    # Five cells per stage, CIFAR-10 and ImageNet16-120: architectures 0, 11 and 284 of the benchmark.
    space = NasBench201(cells_per_stage=5)
    assert space.params([[4, 2, 1, 2, 1, 1]]).tolist() == [129_306]
    assert space.params([[3, 3, 3, 2, 0, 0]]).tolist() == [73_306 + 28_000 + 3 * 243_040]
    assert cell_string((4, 2, 1, 2, 1, 1)) == (
        "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|"
    )


@pytest.mark.parametrize("cell", [(0, 1, 2, 3, 4, 2), (3, 3, 3, 3, 3, 3), (4, 0, 0, 0, 0, 0)])
@pytest.mark.parametrize("space", [NasBench201(), NasBench201((1, 9, 9), 3, 2, (4, 6, 10))])
def test_the_formula_counts_the_real_network(space: NasBench201, cell: tuple[int, ...]) -> None:
    with torch.device("meta"):
        network = nasbench201_network(space, cell)
    assert sum(p.numel() for p in network.parameters()) == space.params([cell])[0]


def test_flops_of_a_real_network_by_hooks() -> None:
    space, cell = NasBench201(), (2, 3, 4, 1, 0, 3)
    network = nasbench201_network(space, cell)
    seen = 0

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal seen
        if isinstance(module, nn.Conv2d):
            assert isinstance(module.kernel_size[0], int)
            seen += 2 * (module.in_channels * module.kernel_size[0] ** 2 + 1) * output.numel()
        elif isinstance(module, nn.Linear):
            seen += 2 * (module.in_features + 1) * output.numel() + output.numel()
        elif isinstance(module, nn.AvgPool2d):
            kernel = int(module.kernel_size) ** 2
            seen += (kernel + 1) * output.numel()
        elif isinstance(module, nn.AdaptiveAvgPool2d):
            seen += (inputs[0][0, 0].numel() + 1) * output.numel()

    relus = 0

    def count_relu(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal relus
        relus += 1

    for module in network.modules():
        module.register_forward_hook(count)
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(count_relu)
    network.eval()(torch.zeros(1, 3, 32, 32))
    convs = 2 * (16 * 1024 + 32 * 256 + 64 * 64)  # per ReLU-conv-BN edge the ReLU counts as its outputs
    edges = 3  # one 1x1 and two 3x3
    activations = edges * convs // 2 + 2 * (32 * 256 + 64 * 64) + 64 * 64
    assert relus == edges * 3 + 2 * 2 + 1
    assert seen + activations == space.flops([cell])[0]


@pytest.mark.parametrize("cell", [(3, 1, 2, 4, 0, 3), (0, 0, 0, 0, 0, 0), (0, 1, 2, 0, 3, 3)])
def test_one_hot_mixture_architecture_and_extract_agree(cell: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    supernet = NasBench201Supernet(SMALL).eval()
    for module in supernet.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)  # type: ignore[arg-type]
    x = torch.randn(3, 1, 8, 8)
    hot = [torch.eye(5)[o].requires_grad_() for o in cell]
    relaxed = supernet.forward_relaxed(x, hot)
    single = supernet.forward_architecture(x, cell)
    torch.testing.assert_close(relaxed, single)
    torch.testing.assert_close(supernet.extract(cell)(x), single)
    assert relaxed.shape == (3, 3)


def test_an_extracted_network_has_weights_of_its_own() -> None:
    supernet = NasBench201Supernet(SMALL)
    network = supernet.extract((3, 3, 3, 3, 3, 3))
    before = {n: t.clone() for n, t in supernet.state_dict().items()}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(t, before[n]) for n, t in supernet.state_dict().items())


def test_a_search_on_the_real_supernet_keeps_the_budget_and_learns() -> None:
    rng = np.random.default_rng(0)

    def data(samples: int) -> tuple[np.ndarray, np.ndarray]:
        y = rng.integers(0, 3, samples)
        x = rng.normal(0, 0.3, (samples, 1, 8, 8))
        for i, label in enumerate(y):
            x[i, 0, 2 * label : 2 * label + 2] += 1.0
        return x.astype(np.float32), y

    (x, y), (x_val, y_val) = data(128), data(64)
    cells = all_cells()
    cost = TableCost({"params": SMALL.params(cells).reshape((5,) * 6)})
    budget = Budget("params", float(np.quantile(cost.values, 0.3)))
    torch.manual_seed(0)
    config = ConnasConfig.quick(epochs=4, batch_size=32)
    result = connas_search(
        NasBench201Supernet(SMALL), cost, [budget], x=x, y=y, x_val=x_val, y_val=y_val, config=config
    )
    assert budget.keeps(result.predicted["params"])
    assert budget.keeps(float(SMALL.params([result.architecture])[0]))
    assert result.score > 0.6  # inherited weights; a guess gives 0.33
    assert result.history[-1].values["loss/train"] < 0.7 * result.history[0].values["loss/train"]


def test_the_papers_recipe_is_appendix_d1_and_takes_its_images() -> None:
    """The settings as printed, and one weight and alpha step of the real size on crops of 32x32 images."""
    config = ConnasConfig.nats_bench()
    assert (config.epochs, config.batch_size, config.anneal_epochs) == (150, 64, 100)
    assert (config.learning_rate, config.final_learning_rate, config.weight_decay) == (0.0025, 0.001, 5e-4)
    assert (config.alpha_learning_rate, config.alpha_weight_decay) == (1e-3, 1e-3)
    assert config.alpha_betas == (0.5, 0.999)
    assert (config.temperature, config.final_temperature, config.rescale) == (10, 0.1, 1.2)
    assert (config.alpha_optimizer, config.turn, config.path_steps, config.relaxation) == (
        "adam", "gradient", 0, "gumbel",
    )  # fmt: skip
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 3, 32, 32)).astype(np.float32), rng.integers(0, 10, 8)
    cost = TableCost({"params": NasBench201().params(all_cells()).reshape((5,) * 6)})
    torch.manual_seed(0)
    result = connas_search(
        NasBench201Supernet(NasBench201()), cost, [Budget("params", 127_514)], x=x, y=y, x_val=x, y_val=y,
        config=replace(config, epochs=2, epoch_steps=1, batch_size=4), augment=crop_and_flip,
    )  # fmt: skip
    assert len(result.history) == 2
    assert result.predicted["params"] <= 127_514


def test_crops_move_and_mirror_but_keep_what_they_show() -> None:
    """An image with one bright pixel in the middle: it moves by up to 4, and nothing else appears."""
    batch = torch.zeros(64, 1, 32, 32)
    batch[:, 0, 16, 16] = 1
    seen = crop_and_flip(batch, torch.Generator().manual_seed(0)).nonzero()
    assert len(seen) == 64
    rows, columns = seen[:, 2], seen[:, 3]
    assert (rows - 16).abs().max() == 4
    assert columns.min() >= 11
    assert columns.max() <= 20
    assert len(columns.unique()) > 8


def test_wrong_arguments_are_refused() -> None:
    supernet = NasBench201Supernet(SMALL)
    x = torch.zeros(2, 1, 8, 8)
    with pytest.raises(ConfigurationError, match="no NAS-Bench-201 architecture"):
        supernet.forward_architecture(x, (1, 2, 3))
    with pytest.raises(ConfigurationError, match="lengths"):
        supernet.forward_relaxed(x, [torch.ones(4)] * 6)
    with pytest.raises(ConfigurationError, match="too small"):
        NasBench201((1, 2, 2))
    with pytest.raises(ConfigurationError, match="positive"):
        NasBench201(cells_per_stage=0)
    with pytest.raises(ConfigurationError, match="architectures are"):
        NasBench201().params([1, 2, 3])
