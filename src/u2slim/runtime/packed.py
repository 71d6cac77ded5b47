"""Packed ONNX files as every runtime reads them: weights in float32 instead of the nodes that unpack them.

The bytes are read directly, since importing `onnx` takes longer than all else here. docs/reference/packed.md has
the form.
"""

from collections.abc import Iterable, Iterator
from math import prod
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import onnx

DOMAIN = "u2slim"
MAX_BITS = 8
MAX_VALUES = 2**29  # of all weights: 2 GB in float32, the most that protobuf holds
_FLOAT, _UINT8, _FLOAT16 = 1, 2, 10  # ONNX's numbers for types
_VARINT, _NESTED = 0, 2
_DOMAIN = DOMAIN.encode()


class _Field(NamedTuple):
    """One field of a protobuf message: a number or bytes, and the whole with its tag."""

    number: int
    wire: int
    value: int
    bytes: memoryview
    whole: memoryview


def widened(data: bytes) -> bytes:
    """An ONNX file whose packed weights are initializers in float32; any other file comes back as it is.

    Raises:
        ValueError: it is damaged, or its packed weights are; the text says how.
    """
    fields = list(_fields(memoryview(data)))
    if not any(_is_ours(field) for field in fields):
        return data
    parts: list[bytes | memoryview] = []
    for field in fields:
        if field.number == 7 and field.wire == _NESTED:
            parts += _nested(7, _graph(field.bytes))
        elif field.number != 25 and not _is_ours(field):  # 25: functions
            parts.append(field.whole)
    return b"".join(parts)


def widened_model(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """The same of a file that `onnx` has read."""
    if all(entry.domain != DOMAIN for entry in model.opset_import):
        return model
    return type(model).FromString(widened(model.SerializeToString()))


def _is_ours(field: _Field) -> bool:
    """Whether it is the import of our operators."""
    return field.number == 8 and field.wire == _NESTED and _text(field.bytes, 1) == DOMAIN


def _graph(graph: memoryview) -> list[bytes | memoryview]:
    fields = list(_fields(graph))
    stored = {_text(field.bytes, 8): field.bytes for field in fields if field.number == 5}
    weights: list[bytes | memoryview] = []
    others, packed, used, total = [], set(), set(), 0
    for field in fields:
        parts = list(_fields(field.bytes)) if field.number == 1 else []
        inputs = [str(part.bytes, "utf-8") for part in parts if part.number == 1]
        if not any(part.number == 7 and part.bytes == _DOMAIN for part in parts):
            used.update(inputs)
            others.append(field)
            continue
        shape = _shape(parts)
        if (total := total + prod(shape)) > MAX_VALUES:
            raise ValueError("its weights are larger than 2 GB in float32")
        if len(inputs) != 2 or not stored.keys() >= set(inputs):
            raise ValueError("a packed weight lacks its planes or its scales")
        planes_BP, scale_O = (_array(stored[name]) for name in inputs)
        weight_OIKK = _unpacked(planes_BP, scale_O, shape)
        weights += _nested(5, _tensor(_output(parts), weight_OIKK))
        packed.update(inputs)
    gone = {id(stored[name]) for name in packed - used}
    return [*(field.whole for field in others if id(field.bytes) not in gone), *weights]


def _unpacked(planes_BP: np.ndarray, scale_O: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Whole numbers of B bits, a plane of bits each and the signs last, times the scale of their row.

    P are bytes, of 8 numbers each, the first in the lowest bit.
    """
    count = prod(shape)
    if planes_BP.dtype != np.uint8 or planes_BP.ndim != 2 or not 2 <= len(planes_BP) <= MAX_BITS:
        raise ValueError(f"a packed weight has planes of shape {planes_BP.shape}, not 2 to {MAX_BITS} of bytes")
    if planes_BP.shape[1] != -(-count // 8) or scale_O.shape != shape[:1] or scale_O.dtype == np.uint8:
        raise ValueError(f"a packed weight of shape {shape} has other planes or scales than it should have")
    if not np.isfinite(scale_O).all():
        raise ValueError("a packed weight has NaN or infinite scales")
    *digits, signs = np.unpackbits(planes_BP, axis=1, count=count, bitorder="little")
    size = digits.pop()
    while digits:
        size = (size << 1) | digits.pop()
    code = size.view(np.int8)
    np.negative(code, out=code, where=signs.view(bool))
    return (code.reshape(len(scale_O), -1) * scale_O.astype(np.float32)[:, None]).reshape(shape)


def _shape(node: Iterable[_Field]) -> tuple[int, ...]:
    """What the attribute `shape` of a node says."""
    for part in node:
        if part.number == 5 and _text(part.bytes, 1) == "shape":
            shape = tuple(_numbers(part.bytes, 8))
            if len(shape) == 4 and min(shape) > 0 and max(shape) < MAX_VALUES:
                return shape
    raise ValueError("a packed weight is of an impossible shape")


def _output(node: Iterable[_Field]) -> memoryview:
    for part in node:
        if part.number == 2:
            return part.bytes
    raise ValueError("a packed weight has no name")


def _array(tensor: memoryview) -> np.ndarray:
    shape = tuple(_numbers(tensor, 1))
    fields = {field.number: field for field in _fields(tensor)}
    kind = {_FLOAT: "<f4", _UINT8: "u1", _FLOAT16: "<f2"}.get(fields[2].value if 2 in fields else 0)
    values = fields[9].bytes if 9 in fields else memoryview(b"")
    if kind is None or len(values) != prod(shape) * np.dtype(kind).itemsize:
        raise ValueError("a packed weight has other planes or scales than it should have")
    return np.frombuffer(values, kind).reshape(shape)


def _tensor(name: memoryview, weight_OIKK: np.ndarray) -> list[bytes | memoryview]:
    """The fields of a tensor in float32."""
    sides = b"".join(map(_as_varint, weight_OIKK.shape))
    kind = [_as_varint(2 << 3 | _VARINT), _as_varint(_FLOAT)]
    return [*_nested(1, [sides]), *kind, *_nested(8, [name]), *_nested(9, [weight_OIKK.astype("<f4").tobytes()])]


def _text(message: memoryview, number: int) -> str:
    found = [str(field.bytes, "utf-8") for field in _fields(message) if field.number == number]
    return found[-1] if found else ""


def _numbers(message: memoryview, number: int) -> list[int]:
    """A repeated number, of which a file may have each by itself or all in one."""
    numbers: list[int] = []
    for field in _fields(message):
        if field.number != number:
            continue
        if field.wire == _VARINT:
            numbers.append(field.value)
        at = 0
        while at < len(field.bytes):
            value, at = _varint(field.bytes, at)
            numbers.append(value)
    return numbers


def _fields(message: memoryview) -> Iterator[_Field]:
    at = 0
    while at < len(message):
        start = at
        tag, at = _varint(message, at)
        number, wire, value, length = tag >> 3, tag & 7, 0, 0
        if wire == _VARINT:
            value, at = _varint(message, at)
        elif wire == _NESTED:
            length, at = _varint(message, at)
        else:
            length = {1: 8, 5: 4}.get(wire, len(message) + 1)
        if length > len(message) - at or number == 0:
            raise ValueError("it is no protobuf, or its end is missing")
        inside = message[at : at + length]
        at += length
        yield _Field(number, wire, value, inside, message[start:at])


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number of a variable length, and where it ends."""
    value = 0
    for shift in range(0, 64, 7):
        if at >= len(message):
            break
        byte, at = message[at], at + 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("it is no protobuf, or its end is missing")


def _nested(number: int, parts: list[bytes | memoryview]) -> list[bytes | memoryview]:
    """A field that is a message, or bytes."""
    return [_as_varint(number << 3 | _NESTED), _as_varint(sum(map(len, parts))), *parts]


def _as_varint(value: int) -> bytes:
    written = bytearray()
    while value > 127:
        written.append(value & 127 | 128)
        value >>= 7
    return bytes([*written, value])
