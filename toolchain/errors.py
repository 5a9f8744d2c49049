"""The one tree of errors. Each says what happened, with the value and the limit, and what to do about it.

Libraries raise these and never print or exit; `toolchain.cli` alone turns them into a line on stderr and
an exit code. The codes are part of the interface (docs/cli.md) and stand here beside the errors that cause them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class BoardfitError(Exception):
    """Base of every error that boardfit raises on purpose.

    Args:
        message: what happened, with the offending value and the limit it broke.
        remedy: what the user can do; one sentence, may name a command.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} ({self.remedy})" if self.remedy else self.message


class BudgetError(BoardfitError):
    """A budget that was promised is broken on the device."""

    exit_code = 1


class UsageError(BoardfitError):
    """The command line asks for something that makes no sense."""

    exit_code = 2


class ConfigurationError(BoardfitError):
    """A project file, a data set or another input of the user is wrong."""

    exit_code = 3


class DataError(ConfigurationError):
    """The user's data set is broken: shapes, NaN, labels."""


class GraphError(ConfigurationError):
    """A graph is not consistent: shapes that do not fit, an unknown tensor, a missing scale."""


class UnsupportedError(ConfigurationError):
    """A model uses an operation outside the operator list; the message names it and where it stands."""


class ModelFileError(ConfigurationError):
    """A model file is corrupt or not what it claims to be."""


class LutError(ConfigurationError):
    """A lookup table is corrupt, of another schema version, or misses a row."""


class EvidenceError(ConfigurationError):
    """Two numbers were to be compared that do not mean the same: another unit, evidence, stack or data set."""


class InfeasibleError(BoardfitError):
    """No architecture keeps all budgets.

    Attributes:
        least: metric -> least achievable value over the whole space.
        binding: metrics whose budgets cannot be kept (alone, or together).
        nearest: the architecture that comes closest (choices as indices), or None.
        nearest_costs: metric -> value of `nearest`.
    """

    exit_code = 4

    def __init__(
        self,
        message: str,
        *,
        remedy: str = "",
        least: Mapping[str, float] | None = None,
        binding: tuple[str, ...] = (),
        nearest: tuple[int, ...] | None = None,
        nearest_costs: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.least = dict(least or {})
        self.binding = binding
        self.nearest = nearest
        self.nearest_costs = dict(nearest_costs or {})


class DeviceError(BoardfitError):
    """No device, a busy port, or a device that stopped answering."""

    exit_code = 5


class FlashingError(BoardfitError):
    """Writing the program or a model to the device failed."""

    exit_code = 6


class VerificationError(BoardfitError):
    """Outputs that must be equal are not."""

    exit_code = 7
