"""Reads tables of a flatbuffer that nobody has checked: every offset is held against the data before it is used.

The accessors that the `flatbuffers` package generates trust their input; on a damaged file they raise anything, or loop
for minutes. Here damage is a `ModelFileError`, and nothing is copied or allocated on the word of a length field.

Source: flatbuffers, "FlatBuffer Internals" (tables, vtables, vectors and strings; little-endian throughout).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from toolchain.errors import ModelFileError


@dataclass(frozen=True, slots=True)
class Table:
    """A table in a flatbuffer. Fields are named by their number in the schema, counted from 0.

    Attributes:
        data: the whole file.
        position: where the table starts.
        vtable: where its list of field offsets starts, and its number of fields.
    """

    data: bytes
    position: int
    vtable: tuple[int, int]

    @classmethod
    def root(cls, data: bytes, identifier: bytes) -> Table:
        """The root table of a file with a four-byte identifier.

        Raises:
            ModelFileError: another identifier, or a broken root.
        """
        if data[4:8] != identifier:
            raise ModelFileError(
                f"not a {identifier.decode()} file: it starts with {data[:8].hex(' ') or 'nothing'}",
                remedy="give the path of a .tflite file",
            )
        return cls.at(data, _unpack(data, "<I", 0))

    @classmethod
    def at(cls, data: bytes, position: int) -> Table:
        """The table at a position. Raises ModelFileError where there cannot be one."""
        vtable = position - _unpack(data, "<i", position)
        size = _unpack(data, "<H", vtable)
        if size < 4 or size % 2 or vtable + size > len(data):
            raise _damage(f"the table at byte {position} has no valid vtable")
        return cls(data, position, (vtable, (size - 4) // 2))

    def scalar(self, field: int, kind: str, default: Any) -> Any:
        """A number; `kind` is a letter of the `struct` module."""
        position = self._field(field)
        return default if position is None else _unpack(self.data, f"<{kind}", position)

    def table(self, field: int) -> Table | None:
        """A table inside this one, or None where it is absent."""
        position = self._field(field)
        return None if position is None else Table.at(self.data, _follow(self.data, position))

    def tables(self, field: int) -> list[Table]:
        """A vector of tables; empty where it is absent."""
        vector = self._vector(field, 4)
        if vector is None:
            return []
        start, length = vector
        positions = range(start, start + 4 * length, 4)
        return [Table.at(self.data, _follow(self.data, position)) for position in positions]

    def array(self, field: int, dtype: DTypeLike) -> NDArray[Any]:
        """A vector of numbers, as a read-only view of the data; empty where it is absent."""
        kind = np.dtype(dtype).newbyteorder("<")
        vector = self._vector(field, kind.itemsize)
        if vector is None:
            return np.empty(0, kind)
        return np.frombuffer(self.data, kind, vector[1], vector[0])

    def string(self, field: int) -> str:
        """A string; empty where it is absent. Bytes that are not UTF-8 are replaced."""
        vector = self._vector(field, 1)
        if vector is None:
            return ""
        return self.data[vector[0] : sum(vector)].decode("utf-8", "replace")

    def _field(self, field: int) -> int | None:
        """Position of a field, or None where it has its default."""
        start, count = self.vtable
        if field >= count:
            return None
        offset: int = _unpack(self.data, "<H", start + 4 + 2 * field)
        return self.position + offset if offset else None

    def _vector(self, field: int, item: int) -> tuple[int, int] | None:
        """(start, length) of a vector of items of that many bytes, or None where it is absent."""
        position = self._field(field)
        if position is None:
            return None
        start = _follow(self.data, position)
        length: int = _unpack(self.data, "<I", start)
        if start + 4 + length * item > len(self.data):
            raise _damage(f"a vector of {length} items at byte {start} goes beyond the end")
        return start + 4, length


def _follow(data: bytes, position: int) -> int:
    offset: int = _unpack(data, "<I", position)
    return position + offset


def _unpack(data: bytes, kind: str, position: int) -> Any:
    if position < 0 or position + struct.calcsize(kind) > len(data):
        raise _damage(f"an offset leads to byte {position}")
    return struct.unpack_from(kind, data, position)[0]


def _damage(what: str) -> ModelFileError:
    return ModelFileError(f"the model file is damaged or cut: {what}", remedy="make or download it again")
