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
    # What helps against most errors of a kind; the command line shows it where an error has no remedy of its own.
    usual_remedy: ClassVar[str] = "run again as `boardfit --debug ...` and report the traceback"

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} ({self.remedy})" if self.remedy else self.message


class BudgetError(BoardfitError):
    """A budget that was promised is broken on the device."""

    exit_code = 1
    usual_remedy = "give the budget more room, or search again with a larger search.margin"


class UsageError(BoardfitError):
    """The command line asks for something that makes no sense."""

    exit_code = 2
    usual_remedy = "`boardfit --help` shows what there is"


class ConfigurationError(BoardfitError):
    """A project file, a data set or another input of the user is wrong."""

    exit_code = 3
    usual_remedy = "correct the project file or the input that is named (docs/cli.md)"


class DataError(ConfigurationError):
    """The user's data set is broken: shapes, NaN, labels."""

    usual_remedy = "correct the data, or [data] in the project file (docs/data.md)"


class GraphError(ConfigurationError):
    """A graph is not consistent: shapes that do not fit, an unknown tensor, a missing scale."""

    usual_remedy = "correct the module or model that is named; if it is boardfit's own, report this as a bug"


class UnsupportedError(ConfigurationError):
    """A model uses an operation outside the operator list; the message names it and where it stands."""

    usual_remedy = "use operators that boardfit knows (docs/own-space.md, docs/spaces.md)"


class ModelFileError(ConfigurationError):
    """A model file is corrupt or not what it claims to be."""

    usual_remedy = "make the file again, or take another one"


class LutError(ConfigurationError):
    """A lookup table is corrupt, of another schema version, or misses a row."""

    usual_remedy = "repair or remove the table, then run `boardfit profile`; docs/lut.md describes it"


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
    usual_remedy = "give the budget that binds more room"

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
    usual_remedy = "`boardfit doctor --target URL` looks at the device"


class FlashingError(BoardfitError):
    """Writing the program or a model to the device failed."""

    exit_code = 6
    usual_remedy = "flash again; `boardfit boards` shows what is attached"


class VerificationError(BoardfitError):
    """Outputs that must be equal are not."""

    exit_code = 7
    usual_remedy = "report this as a bug, with the files in results/model"
