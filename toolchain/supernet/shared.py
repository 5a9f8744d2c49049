"""What a gradient search needs of a supernet, whatever it looks like inside (a chain of blocks, a cell of edges)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn

from toolchain.spaces.space import Choice, Step


class ChoiceSpace(Protocol):
    """The decisions behind a supernet; every `Space` is one."""

    @property
    def name(self) -> str:
        """What checkpoints and reports call it."""
        ...

    @property
    def classes(self) -> int:
        """Number of logits."""
        ...

    @property
    def choices(self) -> tuple[Choice, ...]:
        """The decisions, in the order of an architecture's indices."""
        ...

    @property
    def steps(self) -> Sequence[Sequence[Step]]:
        """Per choice, the available (candidate, state before, state after); one state where all is available."""
        ...


class SharedWeights(nn.Module, ABC):
    """All networks of a space in one set of weights.

    Attributes:
        space: its decisions.
    """

    space: ChoiceSpace

    @abstractmethod
    def forward_relaxed(self, x: Tensor, probabilities: Sequence[Tensor]) -> Tensor:
        """(batch, classes) logits of the mixture, differentiable in the weights and the probabilities.

        Args:
            x: (batch, ...). probabilities: per choice (candidates,).
        """

    @abstractmethod
    def forward_architecture(self, x: Tensor, architecture: Sequence[int]) -> Tensor:
        """(batch, classes) logits of one architecture with the shared weights."""

    @abstractmethod
    def extract(self, architecture: Sequence[int]) -> nn.Module:
        """The architecture as a module of its own with a copy of its weights."""
