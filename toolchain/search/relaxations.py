"""How architecture weights become the probabilities that a supernet mixes its candidates with.

ConNAS modifies gradients and does not ask where they come from, so each relaxation here is one function of one choice,
and a user may give one of their own:

- `gumbel_probabilities`: Gumbel-softmax (Jang et al., 2017), the paper's (eq. 7). Noisy, sharper as it cools.
- `darts_probabilities`: the plain softmax of DARTS (Liu et al., 2019). No noise and no temperature.
- `proxyless_probabilities`: one path at a time (ProxylessNAS, Cai et al., 2019, section 3.2): the forward pass is
  one-hot, the gradient reaches the alphas of two sampled paths.

Alphas are logits. `scale="literal"` reads eq. 7 to the letter instead: alphas are weights, of which the logarithm is
taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

Relaxation: TypeAlias = Callable[[Tensor, float, torch.Generator], Tensor]
"""(logits of one choice, temperature, generator) -> probabilities of its candidates, differentiable in the logits."""

RelaxationName = Literal["gumbel", "darts", "proxyless"]
Scale = Literal["logits", "literal"]

LEAST_WEIGHT: Final = 1e-8
"""Below it a literal alpha is taken as this; weight decay and Adam push weights below 0, which has no logarithm."""

_INITIAL_SPREAD: Final = 1e-3
_TINY: Final = 1e-20


def gumbel_probabilities(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Gumbel-softmax: softmax((log_softmax(logits) + g) / temperature) (eq. 7, with alphas as logits, as in GDAS).

    Args:
        logits: (candidates,).
        temperature: positive; towards 0 the result is one-hot.
        generator: source of the Gumbel noise g, on the CPU.

    Returns:
        (candidates,) probabilities, differentiable in `logits`.
    """
    noise = gumbel_noise(logits, generator)
    return functional.softmax((functional.log_softmax(logits, dim=0) + noise) / temperature, dim=0)


def darts_probabilities(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """softmax(logits); temperature and generator are not used.

    Nothing makes this mixture sharp, so what a candidate is worth inside it may differ from what it is worth alone.
    """
    return functional.softmax(logits, dim=0)


def proxyless_probabilities(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """One-hot at one path; the gradient is that of a softmax over two paths, both drawn from softmax(logits).

    The gradient of the binary gates stands in for that of the probabilities (BinaryConnect's estimate, eq. 4 of
    ProxylessNAS), restricted to two paths as in its section 3.2.1. Two parts of that section are left out: only one
    path in memory (the mixture computes every family whose gradient is asked for), and the rescaling that keeps the
    other paths' probabilities after the update (the direction to feasibility must be free to move them too).

    Args:
        logits: (candidates,). temperature: not used. generator: draws the paths, on the CPU.

    Returns:
        (candidates,) one-hot in value, differentiable in `logits`.
    """
    if len(logits) == 1:
        return functional.softmax(logits, dim=0)
    # The two largest of noisy logits are two draws without replacement (Gumbel top-k).
    pair = (logits.detach() + gumbel_noise(logits, generator)).topk(2).indices
    shares = functional.softmax(logits[pair], dim=0)
    active = pair[int(torch.rand((), generator=generator) >= shares[0].detach().cpu())]
    soft = torch.zeros_like(logits).index_put((pair,), shares)
    gate = functional.one_hot(active, len(logits)).to(logits.dtype)
    return gate + soft - soft.detach()


RELAXATIONS: Final[Mapping[RelaxationName, Relaxation]] = {
    "gumbel": gumbel_probabilities,
    "darts": darts_probabilities,
    "proxyless": proxyless_probabilities,
}


def gumbel_noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """Gumbel(0, 1) noise of the shape, type and device of `like`; drawn on the CPU, so that a seed fixes it."""
    exponential = torch.empty(like.shape, dtype=like.dtype).exponential_(generator=generator)
    return -exponential.clamp_min(_TINY).log().to(like.device)


def logits_of(alpha: Tensor, scale: Scale) -> Tensor:
    """What a relaxation takes: the alphas themselves, or their logarithm ("literal", clamped at `LEAST_WEIGHT`)."""
    return alpha if scale == "logits" else alpha.clamp_min(LEAST_WEIGHT).log()


def first_alphas(size: int, scale: Scale, generator: torch.Generator) -> Tensor:
    """(size,) nearly equal candidates; a small draw breaks the ties."""
    spread = torch.randn(size, generator=generator)
    # A literal alpha is a weight near 1 / size, and a spread of 1e-3 in its logarithm is as small.
    return _INITIAL_SPREAD * spread if scale == "logits" else (1 + _INITIAL_SPREAD * spread) / size
