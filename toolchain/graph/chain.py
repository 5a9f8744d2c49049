"""A chain: what a search space looks like to a cost model.

A space is a sequence of positions; at each position one of several candidates is chosen. What a candidate costs
depends on the shape that reaches it, and on nothing else. So a space is a small layered graph: states (shapes)
between positions, arcs (candidates) from a state to a state, operators on each arc. Its paths are the
architectures. The same graph serves batch pricing, swaps (ConNAS) and exact selection (BINAS:
a resource-constrained longest path).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from toolchain.graph.liveness import Live
from toolchain.graph.operator import Operator, Shape


class Band(NamedTuple):
    """An operator that runs patch by patch.

    Attributes:
        operator: what runs in one patch: without padding, on an input that has all that its windows read.
        share: of the whole operator's work, what all patches do together; above 1 where they overlap.
        runs: number of patches.
    """

    operator: Operator
    share: float
    runs: int


@dataclass(frozen=True, slots=True)
class Arc:
    """One candidate at one position, applied to one incoming shape.

    Attributes:
        candidate: index among the position's candidates.
        start, end: state indices before and after (`Chain.states[position]`, `Chain.states[position + 1]`).
        operators: in execution order; empty for an identity.
        ram_bytes: peak bytes of simultaneously live activations inside this arc, input and output included
            (exact for chains of operators; residual branches counted).
        constant_bytes: bytes of weights, biases and other constants.
        live: per operator, the bytes of what lives while it runs: what a runtime that needs scratch memory and
            alignment, and whose kernels may work in place, makes its arena of.
        bands: per operator, where it runs patch by patch; empty in a space, where each runs once.
    """

    candidate: int
    start: int
    end: int
    operators: tuple[Operator, ...]
    ram_bytes: int
    constant_bytes: int
    live: tuple[Live, ...] = ()
    bands: tuple[Band, ...] = ()


@dataclass(frozen=True, slots=True)
class Chain:
    """All positions of a space. The first position has one state; the stem and the head are positions with one
    candidate, so a path through all positions is a whole network.

    Attributes:
        states: per position (and one more at the end), the shapes that can stand there.
        arcs: per position, all arcs. Where a (state, candidate) pair has no arc, the candidate is not
            available in that state.
        choices: index of the position for each entry of an architecture, ascending; the positions not listed
            have exactly one candidate.
    """

    states: tuple[tuple[Shape, ...], ...]
    arcs: tuple[tuple[Arc, ...], ...]
    choices: tuple[int, ...]

    @property
    def operators(self) -> tuple[Operator, ...]:
        """Every distinct operator of the space, in order of first appearance: what there is to profile."""
        return tuple(dict.fromkeys(op for arcs in self.arcs for arc in arcs for op in arc.operators))
