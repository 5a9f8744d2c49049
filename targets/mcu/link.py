"""Talking to a board: slot, models, runs (docs/wire-protocol.md). Each call gives the right result or a typed error."""

from __future__ import annotations

import contextlib
import statistics
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Final, Self

from targets.mcu import replies, slot, wire
from targets.mcu.dialogue import ATTEMPTS, Dialogue
from targets.mcu.port import Port
from targets.mcu.replies import BoardRestarted, Hello, ModelInfo, Refused, RunReply
from targets.mcu.slot import SlotProgress
from targets.mcu.wire import Command, Status
from toolchain.errors import DeviceError

__all__ = ["BoardLink", "BoardRestarted", "Hello", "ModelInfo", "Refused", "RunResult"]


_RESET_S: Final = 5.0  # a board is back after some milliseconds, an emulator or a process a little later

_REQUEST_S: Final = 2.0  # repetitions are split into requests of about this length
# No board and no emulator counts faster than 1 GHz: a shorter run cannot wrap a counter of 32 bits.
_WRAP_S: Final = 2**32 / 1e9


@dataclass(frozen=True, slots=True)
class RunResult:
    """What running a model gave.

    Attributes:
        ticks: cycles of each timed repetition, in order; empty when not timed.
        stack_bytes: deepest use of the stack, the protocol's own included.
        arena_bytes: RAM that the model takes.
        output_crc: CRC-32 of all outputs, the same in every repetition.
        constant_lines: 16-byte lines of constants that one run reads from flash; 0 where the runtime does not know.
    """

    ticks: tuple[int, ...]
    stack_bytes: int
    arena_bytes: int
    output_crc: int
    constant_lines: int

    @property
    def min_ticks(self) -> int:
        return min(self.ticks)

    @property
    def median_ticks(self) -> float:
        return statistics.median(self.ticks)

    @property
    def max_ticks(self) -> int:
        return max(self.ticks)


@dataclass(slots=True)
class _Open:
    """The open model, as far as the host knows: all that it expects of the next run is checked against the reply."""

    info: ModelInfo
    session: int  # that it was opened in; another one knows nothing of it
    lasting: bool  # inputs that were set are kept from run to run
    inputs: list[bytes | None]  # None: not set, or spent
    filled: bool = False
    run_s: float | None = None  # time of one run on the clock on the wall
    output_crc: int | None = None


class BoardLink:
    """A conversation with one board. A context manager, which closes the port.

    Args:
        port: the line; `targets.mcu.port.open_port(url)`.
        reply_s: how long the first try waits for a reply, beside the time of the bytes on the line and of the work.
        attempts: tries of a request; with the waits doubling, 6 of 0.5 s take half a minute.
        clock: for tests.
    """

    def __init__(
        self,
        port: Port,
        *,
        reply_s: float = 0.5,
        attempts: int = ATTEMPTS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._port = port
        self._clock = clock
        self._line = Dialogue(port, reply_s=reply_s, attempts=attempts, clock=clock)
        self._model: _Open | None = None

    @property
    def board(self) -> Hello:
        """What the board said about itself; asked on first use."""
        return self._line.board

    def hello(self) -> Hello:
        """Begin a session. What the board was asked before is forgotten on both sides, but for its flash.

        Raises:
            DeviceError: nothing answers, or what answers speaks another version of the protocol.
        """
        return self._line.hello()

    # --- the slot --------------------------------------------------------------------------------------------------

    def erase(self, offset: int, count: int) -> None:
        """Erase pages of the slot, one by one.

        Raises:
            FlashingError: outside of the slot, not whole pages, or the flash refuses.
        """
        self._model = None
        slot.erase(self._line, offset, count)

    def slot_crc(self, offset: int, count: int) -> int:
        """CRC-32 of a part of the slot. Raises FlashingError outside of it."""
        return slot.slot_crc(self._line, offset, count)

    def write_slot(self, offset: int, data: bytes, progress: SlotProgress | None = None) -> int:
        """Bring data into the slot. Pages that are right already are left alone, since every erasure wears them.

        The last page is erased as a whole: what stood behind the data in it is lost.

        Args:
            offset: in the slot, a multiple of its page.
            data: any length.
            progress: called with the bytes that are right so far, and all bytes.

        Returns:
            The bytes of the pages that were written; 0 where nothing had to be.

        Raises:
            FlashingError: it does not fit, the flash refuses, or reads otherwise than written.
        """
        self._model = None
        return slot.write(self._line, offset, data, progress)

    # --- a model ---------------------------------------------------------------------------------------------------

    def open_model(self, offset: int, count: int, *, keep_inputs: bool = False) -> ModelInfo:
        """Open the model at an offset of the slot; all that follows is about it.

        Args:
            offset: of its first byte, a multiple of 16.
            count: its bytes.
            keep_inputs: leave room in RAM for a copy of the inputs, so that one `set_input` lasts for many runs.

        Raises:
            Refused: the runtime refuses the model: damaged, of another format, too large for the RAM.
            FlashingError: the place is outside of the slot.
        """
        model = self._open(offset, count, 0)
        return self._open(offset, count, sum(model.input_bytes)) if keep_inputs else model

    def _open(self, offset: int, count: int, keep_bytes: int) -> ModelInfo:
        self._model = None
        payload = self._line.ask(Command.OPEN, wire.words(offset, count, keep_bytes), work_s=count * 1e-6)
        model = self._line.parsed(Command.OPEN, replies.model, payload)
        self._model = _Open(
            model, self._line.session, lasting=keep_bytes > 0, inputs=[None] * len(model.input_bytes)
        )
        return model

    def set_input(self, data: bytes, index: int = 0) -> None:
        """Send an input. Without `keep_inputs` it lasts for one run.

        Args:
            data: all its bytes.
            index: which of the inputs.

        Raises:
            DeviceError: the model has no such input.
        """
        model = self._opened()
        sizes = model.info.input_bytes
        if not 0 <= index < len(sizes) or len(data) != sizes[index]:
            raise DeviceError(
                f"input {index} of {len(data)} bytes, where the model's inputs have {list(sizes)}",
                remedy="send an input of the model",
            )
        if model.filled:
            model.inputs, model.filled = [None] * len(sizes), False
        model.output_crc = None
        chunk = self.board.chunk_bytes
        for at in range(0, len(data), chunk):
            self._line.ask(Command.INPUT, wire.words(index, at) + data[at : at + chunk])
        model.inputs[index] = bytes(data)

    def fill_input(self, seed: int) -> None:
        """Let the board fill all inputs with noise before every run; `targets.mcu.wire.noise` makes the same."""
        model = self._opened()
        model.output_crc = None
        self._line.ask(Command.FILL, wire.words(seed))
        model.inputs = [part.tobytes() for part in wire.noise(seed, model.info.input_bytes)]
        model.filled = True

    def run(
        self, warmup: int = 1, repetitions: int = 1, *, operators: bool = False, timed: bool = True
    ) -> RunResult:
        """Run the open model.

        Args:
            warmup: runs before the first that counts.
            repetitions: runs that count.
            operators: time each operator too; `operator_ticks` then has those of the last repetition.
            timed: read the cycle counter. Without, a board whose counter stands still gives outputs all the same.

        Raises:
            DeviceError: the counter stands still or may have wrapped, outputs differ between repetitions, the
                inputs are not those that were sent, or the board stopped answering.
            Refused: the runtime failed while it ran.
        """
        model = self._opened()
        if repetitions < 1 or warmup < 0:
            raise DeviceError(
                f"{warmup} warm-ups and {repetitions} repetitions make no measurement",
                remedy="repeat at least once",
            )
        flags = (wire.RUN_TIMED if timed or operators else 0) | (wire.RUN_OPERATORS if operators else 0)
        # Each request below is warmed up by one run, since what happened between two of them may have cooled the
        # flash's caches; so one less is needed here, unless it is not known yet how long a run takes.
        for count in self._split(warmup if model.run_s is None else max(0, warmup - 1)):
            self._run_once(0, count, 0)
        parts = [self._run_once(min(1, warmup), count, flags) for count in self._split(repetitions)]
        ticks = tuple(tick for part in parts for tick in part.ticks)
        if len({part.output_crc32 for part in parts}) > 1:
            raise DeviceError(
                f"{self._line.name}: outputs differ between repetitions",
                remedy="check the board's supply and clock",
            )
        if ticks:
            self._check_wrap()
        last = parts[-1]
        model.output_crc = last.output_crc32
        return RunResult(
            ticks,
            max(part.stack_bytes for part in parts),
            model.info.arena_bytes,
            last.output_crc32,
            last.constant_lines,
        )

    def operator_ticks(self) -> tuple[int, ...]:
        """Cycles of each operator in the last repetition of `run(operators=True)`.

        Raises:
            DeviceError: no such run, or the counter stood still during an operator.
        """
        count = self._opened().info.operators
        most = self.board.chunk_bytes // 4
        ticks: list[int] = []
        for first in range(0, count, most):
            now = min(most, count - first)
            payload = self._line.ask(Command.OPERATOR_TICKS, wire.words(first, now))
            ticks += self._line.parsed(Command.OPERATOR_TICKS, partial(_exactly, now), payload)
        if 0 in ticks:
            raise DeviceError(
                f"the cycle counter of {self._line.name} stood still during operator {ticks.index(0)}",
                remedy="reset the board without a debugger",
            )
        return tuple(ticks)

    def output(self, index: int = 0) -> bytes:
        """An output of the last run; see `outputs`, which checks them all."""
        sizes = self._opened().info.output_bytes
        if not 0 <= index < len(sizes):
            raise DeviceError(
                f"the model has {len(sizes)} outputs, none of number {index}", remedy="choose another"
            )
        chunk = self.board.chunk_bytes
        data = b""
        for at in range(0, sizes[index], chunk):
            count = min(chunk, sizes[index] - at)
            part = self._line.ask(Command.OUTPUT, wire.words(index, at, count))
            if len(part) != count:
                raise self._line.nonsense(Command.OUTPUT, f"{len(part)} bytes where {count} were asked for")
            data += part
        if len(sizes) == 1:
            self._check_outputs(data)
        return data

    def outputs(self) -> list[bytes]:
        """All outputs of the last run, compared with the CRC that the run gave.

        Raises:
            DeviceError: they are not what the run left.
        """
        found = [self.output(index) for index in range(len(self._opened().info.output_bytes))]
        self._check_outputs(b"".join(found))
        return found

    def reset(self) -> Hello:
        """Restart the board's firmware, and begin a session with it."""
        with contextlib.suppress(BoardRestarted):  # its reply was lost, and it has restarted already
            self._line.ask(Command.RESET)
        self._model = None
        end = self._clock() + _RESET_S
        while True:
            try:
                return self.hello()
            except DeviceError:
                if self._clock() > end:
                    raise

    def close(self) -> None:
        """Release the port; may be called twice."""
        self._port.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- runs in requests ------------------------------------------------------------------------------------------

    def _opened(self) -> _Open:
        if self._model is None or self._model.session != self._line.session:
            raise DeviceError("no model is open", remedy="call open_model first")
        return self._model

    def _split(self, total: int) -> Iterator[int]:
        """Numbers of runs for one request each, about `_REQUEST_S` long; one run while nothing is known."""
        while total > 0:
            run_s = self._opened().run_s
            most = 1 if run_s is None else int(_REQUEST_S / max(run_s, 1e-9))
            count = max(1, min(total, most, self.board.max_repetitions))
            total -= count
            yield count

    def _run_once(self, warmup: int, count: int, flags: int) -> RunReply:
        model = self._opened()
        if None in model.inputs:
            raise DeviceError(
                f"input {model.inputs.index(None)} of the model is not set, or was spent by a run",
                remedy="set the inputs before each run, fill them, or open the model with keep_inputs",
            )
        sent = zlib.crc32(b"".join(part for part in model.inputs if part is not None))
        if not (model.filled or model.lasting):
            model.inputs = [None] * len(model.inputs)
        model.output_crc = None
        start = self._clock()
        payload = self._line.ask(
            Command.RUN, wire.words(warmup, count, flags), work_s=(model.run_s or 0) * (warmup + count)
        )
        run_s = (self._clock() - start) / (warmup + count)
        model.run_s = run_s if model.run_s is None else min(run_s, model.run_s)
        reply = self._line.parsed(Command.RUN, replies.run, payload)
        if len(reply.ticks) != (count if flags else 0):
            raise self._line.nonsense(Command.RUN, f"{len(reply.ticks)} times for {count} repetitions")
        if reply.input_crc32 != sent:
            raise DeviceError(
                f"{self._line.name} ran on other inputs (CRC {reply.input_crc32:#010x}) than were sent ({sent:#010x})",
                remedy="close other programs that talk to the board, and try again",
            )
        if 0 in reply.ticks:
            raise replies.refusal(Status.TICKS_STUCK, 0, 0, Command.RUN, self._line.name)
        return reply

    def _check_wrap(self) -> None:
        """Long runs: the counter has 32 bits. Each operator takes less than the whole, so their sum tells."""
        model = self._opened()
        if (model.run_s or 0.0) < _WRAP_S:
            return
        if not (model.filled or model.lasting):
            raise DeviceError(
                f"a run takes {model.run_s:.1f} s, in which the counter of {self._line.name} may wrap",
                remedy="open the model with keep_inputs, so that its operators can be timed as well",
            )
        self._run_once(0, 1, wire.RUN_TIMED | wire.RUN_OPERATORS)
        if sum(self.operator_ticks()) >= 2**32:
            raise DeviceError(
                f"a run takes more than {2**32} cycles, which the counter of {self._line.name} cannot hold",
                remedy="measure a smaller model, or the operators one by one",
            )

    def _check_outputs(self, data: bytes) -> None:
        wanted = self._opened().output_crc
        if wanted is None or zlib.crc32(data) != wanted:
            raise DeviceError(
                f"{self._line.name}: the outputs are not those of the last run",
                remedy="close other programs that talk to the board, and run again",
            )


def _exactly(count: int, payload: bytes) -> tuple[int, ...]:
    found = wire.read_words(payload)
    if len(found) != count:
        raise ValueError(f"{len(found)} words where {count} were asked for")
    return found
