"""The ConNAS direction to feasibility and the gradient it modifies (NumPy float64; one edge = one choice at a time).

Source: ConNAS (under review, ICLR 2026), sections 3.2 and 3.3, equations 2 to 6, with four corrections:

- The sign of eq. 2 is flipped: the direction points *to* feasibility, and a descent step must go along it.
- The gradient's norm is that of the edge, not of the entry; only then does every step with rescale > 1 make progress
  along the direction (at least eta (rescale - 1) max(||g||, epsilon)).
- Where no candidate is feasible, tied candidates get equal entries (mid-ranks).
- Directions of several constraints are summed and normalised edge by edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from toolchain.errors import ConfigurationError
from toolchain.search.protocols import Floats

Norm = Literal["edge", "entry"]

_ZERO: Final = 1e-12  # a sum of unit vectors that is shorter than this has cancelled


def direction(costs: npt.ArrayLike, bound: float) -> Floats:
    """The unit vector that points to feasibility on one edge for one constraint (eq. 4 to 6).

    - All candidates within the bound: zeros.
    - Some: the feasible ones share one positive entry, the others one negative entry (closed form of eq. 6).
    - None: raw entry = number of dearer candidates minus number of cheaper ones, normalised. All equal: zeros.

    Args:
        costs: (candidates,) the metric of the whole network with this edge's candidate replaced. inf marks a
            candidate that is not available: it counts as dearer than any other and equal to every other inf.
        bound: the budget, in the metric's unit.

    Returns:
        (candidates,) of norm 1, or zeros.

    Raises:
        ConfigurationError: a cost is NaN or -inf, or `costs` is not one-dimensional.
    """
    c = np.asarray(costs, dtype=np.float64)
    if c.ndim != 1 or c.size == 0:
        raise ConfigurationError(f"costs of one edge must have one axis with candidates, got shape {c.shape}")
    if np.isnan(c).any() or np.isneginf(c).any():
        raise ConfigurationError(
            f"costs {c.tolist()} hold NaN or -inf", remedy="check the cost model's table"
        )
    within = c <= bound
    count, n = int(within.sum()), c.size
    if count == n:
        return np.zeros(n)
    if count > 0:
        outside = n - count
        entries: Floats = np.where(within, np.sqrt(outside / (count * n)), -np.sqrt(count / (outside * n)))
        return entries
    # Comparisons, not differences: inf - inf would be NaN.
    dearer = (c[None, :] > c[:, None]).sum(axis=1)
    cheaper = (c[None, :] < c[:, None]).sum(axis=1)
    return _unit((dearer - cheaper).astype(np.float64))


def aggregate(directions: Sequence[Floats], size: int | None = None) -> Floats:
    """The sum of the constraints' directions on one edge, normalised to a unit vector (Algorithm 1).

    Args:
        directions: one (candidates,) vector per *violated* constraint; satisfied ones contribute nothing.
        size: number of candidates, needed when `directions` is empty.

    Returns:
        (candidates,) of norm 1; zeros when there is no direction or when they cancel.

    Raises:
        ConfigurationError: nothing to aggregate and no size given.
    """
    if len(directions) == 0:
        if size is None:
            raise ConfigurationError("no directions to aggregate and no number of candidates given")
        return np.zeros(size)
    return _unit(np.sum(np.stack(directions), axis=0))


def modified_gradient(
    gradient: npt.ArrayLike,
    direction: npt.ArrayLike,
    rescale: float = 1.2,
    epsilon: float = 1e-3,
    norm: Norm = "edge",
) -> Floats:
    """g - R D max(||g||, epsilon): a descent step with it goes towards feasibility (eq. 2 with its sign corrected).

    Args:
        gradient: (candidates,) gradient of the task loss for one edge's alphas.
        direction: (candidates,) unit vector or zeros, from `aggregate`.
        rescale: R; above 1 the step along D is positive whatever the gradient (norm "edge").
        epsilon: the least length, so that a vanishing gradient does not stop the way to feasibility.
        norm: "edge" takes the norm of the edge's gradient; "entry", literal to the paper, each entry's absolute value
            (no guarantee).

    Raises:
        ConfigurationError: unknown norm, or shapes that differ.
    """
    g, d = np.asarray(gradient, dtype=np.float64), np.asarray(direction, dtype=np.float64)
    if g.shape != d.shape:
        raise ConfigurationError(f"gradient {g.shape} and direction {d.shape} differ in shape")
    if norm == "edge":
        return g - rescale * d * max(float(np.linalg.norm(g)), epsilon)
    if norm == "entry":
        return g - rescale * d * np.maximum(np.abs(g), epsilon)
    raise ConfigurationError(f"unknown norm {norm!r}", remedy='use "edge" or "entry"')


def _unit(vector: Floats) -> Floats:
    length = float(np.linalg.norm(vector))
    return np.zeros_like(vector) if length < _ZERO else vector / length
