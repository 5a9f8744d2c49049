"""Shared weights: corners are sub-networks, one-hot mixtures are architectures, gradients reach the probabilities."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.spaces.own import Dense, Stages, Uneven
from toolchain.errors import ConfigurationError
from toolchain.spaces import Candidate, Choice, ConNAS1d, Image2d, Space
from toolchain.supernet import Supernet, recalibrate_bn

SPACES = [
    ConNAS1d(length=32, channels=(4, 8, 16), edges=4),
    Image2d(blocks=2),
    Dense(),
    Stages(),
    Uneven(),
]


def batch(space: Space, n: int = 4, seed: int = 0) -> Tensor:
    """Random inputs of a space."""
    return torch.randn(n, *space.input_shape, generator=torch.Generator().manual_seed(seed))


def made(space: Space, seed: int = 0) -> Supernet:
    """A supernet whose batch norms have statistics and shifts that would give a wrong mask away."""
    torch.manual_seed(seed)
    supernet = Supernet(space)
    for norm in supernet.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(norm.weight, 0.7, 1.3)
            nn.init.uniform_(norm.bias, 0.1, 0.5)  # positive: dead channels come alive after a ReLU
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.normal_(0, 0.2)
            norm.running_var.uniform_(0.1, 0.5)
    return supernet.eval()


def uniform(space: Space) -> list[Tensor]:
    """Equal probabilities that want gradients."""
    return [
        torch.full((len(c.candidates),), 1 / len(c.candidates), requires_grad=True) for c in space.choices
    ]


def architectures(space: Space, n: int = 12) -> list[tuple[int, ...]]:
    rng = np.random.default_rng(5)
    return [space.sample(rng) for _ in range(n)]


@pytest.mark.parametrize("space", SPACES, ids=lambda s: s.name)
@torch.no_grad()
def test_an_architecture_is_its_extracted_network(space: Space) -> None:
    supernet, x = made(space), batch(space)
    outputs = []
    for architecture in architectures(space):
        logits = supernet.forward_architecture(x, architecture)
        network = supernet.extract(architecture)
        assert not network.training
        assert torch.equal(network(x), logits)
        assert (logits[0] - logits[1]).abs().max() > 1e-4  # the test sees the input
        outputs.append(logits)
    distinct = len(set(architectures(space)))
    assert len({tuple(o.flatten().tolist()) for o in outputs}) == distinct  # ... and the architecture


@pytest.mark.parametrize("space", SPACES, ids=lambda s: s.name)
@torch.no_grad()
def test_a_one_hot_mixture_is_the_architecture(space: Space) -> None:
    supernet, x = made(space), batch(space)
    for architecture in architectures(space):
        torch.testing.assert_close(
            supernet.forward_relaxed(x, supernet.one_hot(architecture)),
            supernet.forward_architecture(x, architecture),
            rtol=1e-4,
            atol=1e-5,
        )


@pytest.mark.parametrize("space", SPACES, ids=lambda s: s.name)
def test_gradients_reach_probabilities_and_weights(space: Space) -> None:
    supernet = made(space).train()
    probabilities = uniform(space)
    logits = supernet.forward_relaxed(batch(space), probabilities)
    assert logits.shape == (4, space.classes)
    logits.square().sum().backward()
    reachable = [{s.candidate for s in steps} for steps in space.steps]
    for position, p in enumerate(probabilities):
        assert p.grad is not None
        assert torch.isfinite(p.grad).all()
        assert (p.grad[sorted(reachable[position])] != 0).all()
    for name, parameter in supernet.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all()


@pytest.mark.parametrize("space", SPACES, ids=lambda s: s.name)
def test_gradients_of_probabilities_are_those_of_differences(space: Space) -> None:
    supernet, x = made(space).double(), batch(space).double()
    values = [p.detach().double() for p in uniform(space)]

    def logit(first: Tensor) -> Tensor:
        return supernet.forward_relaxed(x, [first, *values[1:]])[0, 0]

    assert torch.autograd.gradcheck(
        logit, (values[0].clone().requires_grad_(),), eps=1e-7, atol=1e-4, fast_mode=True
    )


@pytest.mark.parametrize("space", SPACES, ids=lambda s: s.name)
def test_gradients_stay_finite_at_one_hot_probabilities(space: Space) -> None:
    # What a straight-through estimator does.
    supernet = made(space).train()
    probabilities = [p.requires_grad_() for p in supernet.one_hot(architectures(space)[0])]
    supernet.forward_relaxed(batch(space), probabilities).square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in probabilities)


def test_each_family_is_evaluated_once() -> None:
    space = ConNAS1d(length=32, channels=(4, 8, 16), edges=4)
    supernet = made(space)
    calls: list[str] = []
    for name, layer in supernet.named_modules():
        if isinstance(layer, nn.Conv1d):
            layer.register_forward_hook(lambda *_, name=name: calls.append(name))
    supernet.forward_relaxed(batch(space), uniform(space))
    assert len(calls) == len(set(calls)) == 4 * 3  # a convolution, and two of the separable block, per edge
    calls.clear()
    with torch.no_grad():  # without gradients, what has probability 0 costs nothing
        supernet.forward_relaxed(batch(space), supernet.one_hot((0, 6, 3, 1)))
    assert len(calls) == 1 + 0 + 2 + 1


def test_mixture_is_the_sum_of_masked_families_as_written_in_the_paper() -> None:
    space = ConNAS1d(length=16, channels=(2, 4), edges=1)
    supernet, x = made(space), batch(space)
    p = torch.tensor([0.1, 0.2, 0.3, 0.4])
    conv, ds = supernet.blocks["edge1/conv"].module, supernet.blocks["edge1/ds"].module
    small = torch.tensor([1.0, 1, 0, 0]).view(1, 4, 1)
    mixed = (p[0] * small + p[1]) * conv(x) + (p[2] * small + p[3]) * ds(x)
    torch.testing.assert_close(supernet.forward_relaxed(x, [p]), supernet.head(mixed))


def test_identity_passes_the_mixture_on() -> None:
    space = ConNAS1d(length=16, channels=(2, 4), edges=2)
    supernet, x = made(space), batch(space)
    first = torch.tensor([0.1, 0.2, 0.3, 0.4])
    only_identity = torch.tensor([0.0, 0, 0, 0, 1])
    one_edge = ConNAS1d(length=16, channels=(2, 4), edges=1)
    shorter = Supernet(one_edge).eval()
    wanted = {k: v for k, v in supernet.state_dict().items() if "edge2" not in k}
    shorter.load_state_dict(wanted)
    torch.testing.assert_close(
        supernet.forward_relaxed(x, [first, only_identity]), shorter.forward_relaxed(x, [first])
    )


def test_an_unavailable_candidate_gives_its_share_to_the_others() -> None:
    space = Uneven()
    supernet, x = made(space), batch(space)
    # In state c2, `same` is not available, so its probability counts for nothing there.
    with torch.no_grad():
        mixed = [torch.tensor([1.0, 0, 0]), torch.tensor([0.3, 0.0, 0.7, 0.0]), torch.tensor([1.0, 0])]
        pure = [mixed[0], torch.tensor([1.0, 0, 0, 0]), mixed[2]]
        torch.testing.assert_close(supernet.forward_relaxed(x, mixed), supernet.forward_relaxed(x, pure))
        nothing = [mixed[0], torch.tensor([0.0, 0, 1, 0]), mixed[2]]  # then the available ones are equal
        equal = [mixed[0], torch.tensor([0.5, 0.5, 0, 0]), mixed[2]]
        torch.testing.assert_close(supernet.forward_relaxed(x, nothing), supernet.forward_relaxed(x, equal))


def test_training_one_architecture_touches_its_corner_only() -> None:
    space = ConNAS1d(length=32, channels=(4, 8), edges=2)
    supernet = made(space).train()
    before = copy.deepcopy(supernet.state_dict())
    optimiser = torch.optim.SGD(supernet.parameters(), lr=0.1)
    supernet.forward_architecture(batch(space), space.decode("conv4 ds8")).square().sum().backward()
    optimiser.step()
    changed = {name: tensor != before[name] for name, tensor in supernet.state_dict().items()}
    first = changed["blocks.edge1/conv.module.1.weight"]
    assert first[:4].all()
    assert not first[4:].any()
    for statistic in ("running_mean", "running_var"):
        norm = changed[f"blocks.edge1/conv.module.2.{statistic}"]
        assert norm[:4].all()
        assert not norm[4:].any()
    assert int(supernet.state_dict()["blocks.edge1/conv.module.2.num_batches_tracked"]) == 1
    assert not any(bool(c.any()) for name, c in changed.items() if "edge1/ds" in name or "edge2/conv" in name)


def test_extracting_copies_and_keeps_the_mode() -> None:
    space = Image2d(blocks=1)
    supernet = made(space).train()
    state = torch.random.get_rng_state()
    network = supernet.extract((0, 0))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert network.training
    before = copy.deepcopy(supernet.state_dict())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in supernet.state_dict().items())


def test_a_supernet_can_be_copied_and_stored() -> None:
    space = Image2d(blocks=1)
    supernet, x = made(space), batch(space)
    probabilities = uniform(space)
    logits = supernet.forward_relaxed(x, probabilities)
    twin = copy.deepcopy(supernet)
    torch.testing.assert_close(twin.forward_relaxed(x, probabilities), logits)
    other = Supernet(space).eval()
    other.load_state_dict(supernet.state_dict())
    torch.testing.assert_close(other.forward_relaxed(x, probabilities), logits)


def test_wrong_arguments_are_refused() -> None:
    space = Dense()
    supernet = made(space)
    with pytest.raises(ConfigurationError, match=r"lengths \[3\], the choices have \[3, 4\]"):
        supernet.forward_relaxed(batch(space), uniform(space)[:1])
    with pytest.raises(ConfigurationError, match="index 7"):
        supernet.forward_architecture(batch(space), (7, 0))


class _NotNested(Dense):
    """The narrow block has a layer more than the wide one."""

    def block(self, position: int, candidate: Candidate, in_shape: tuple[int, ...]) -> nn.Module | None:
        if candidate.name == "d4":
            return nn.Sequential(nn.Linear(in_shape[0], 9), nn.ReLU(), nn.Linear(9, 4))
        return super().block(position, candidate, in_shape)


class _Shrinking(Dense):
    """The hidden layer shrinks as the output grows."""

    def block(self, position: int, candidate: Candidate, in_shape: tuple[int, ...]) -> nn.Module | None:
        if candidate.channels is None:
            return nn.Identity()
        hidden = 20 - candidate.channels
        return nn.Sequential(nn.Linear(in_shape[0], hidden), nn.Linear(hidden, candidate.channels))


@pytest.mark.parametrize("space", [_NotNested(), _Shrinking()], ids=lambda s: s.name)
def test_families_that_do_not_nest_are_refused_with_a_remedy(space: Space) -> None:
    with pytest.raises(ConfigurationError, match=r"family dense at a: .*families of their own"):
        Supernet(space)


class _Strides(Space):
    """Candidates of one choice with different strides: single paths only."""

    def __init__(self) -> None:
        self.input_shape = (2, 8)
        self.classes = 2
        self.choices = (Choice("a", (Candidate("s1", "s1", 3), Candidate("s2", "s2", 3))),)

    def stem(self) -> nn.Module:
        return nn.Identity()

    def block(self, position: int, candidate: Candidate, in_shape: tuple[int, ...]) -> nn.Module | None:
        return nn.Conv1d(in_shape[0], 3, 3, stride=int(candidate.name[1]), padding=1)

    def head(self, in_shape: tuple[int, ...]) -> nn.Module:
        return nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(3, 2))


def test_sizes_that_no_sum_can_mix_are_for_single_paths() -> None:
    space = _Strides()
    supernet = made(space)
    for architecture in space:
        assert supernet.forward_architecture(batch(space), architecture).shape == (4, 2)
    with pytest.raises(ConfigurationError, match="candidates of a give different sizes"):
        supernet.forward_relaxed(batch(space), uniform(space))


def test_recalibration_averages_over_the_batches_and_leaves_the_rest() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv1d(3, 5, 3), nn.BatchNorm1d(5), nn.Dropout(0.5)).eval()
    batches = [batch(ConNAS1d(input_channels=3, length=20), n=8, seed=s) for s in range(3)]
    recalibrate_bn(network, batches)
    norm = network[1]
    with torch.no_grad():
        maps = [network[0](x) for x in batches]
    torch.testing.assert_close(norm.running_mean, torch.stack([m.mean((0, 2)) for m in maps]).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack([m.var((0, 2)) for m in maps]).mean(0))
    assert norm.momentum == 0.1
    assert not any(m.training for m in network.modules())
    with pytest.raises(ConfigurationError, match="no batches"):
        recalibrate_bn(network, [])


def test_a_supernet_learns() -> None:
    torch.manual_seed(0)
    space = Image2d(widths=(4, 8), blocks=1)
    supernet = Supernet(space)
    x, y = batch(space, n=64), torch.arange(64) % 4
    x[torch.arange(64), 0, y, y] += 6
    optimiser = torch.optim.Adam(supernet.parameters(), lr=1e-2)
    losses = []
    for step in range(30):
        probabilities = [torch.softmax(torch.randn(p.numel()), 0) for p in uniform(space)]
        loss = nn.functional.cross_entropy(supernet.forward_relaxed(x, probabilities), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
        assert np.isfinite(losses[-1]), step
    assert losses[-1] < 0.5 * losses[0]
