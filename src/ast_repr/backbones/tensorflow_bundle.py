"""Reader of TensorFlow checkpoints without TensorFlow.

A checkpoint is a pair of files, `.index` and `.data-00000-of-00001`. The index is a LevelDB table
(its doc/table_format.md) of BundleEntryProto messages (TensorFlow's tensor_bundle.proto) with type,
shape, offset and size of each tensor. Checkpoints of one shard with uncompressed blocks are read.
Checksums are not verified: the caller knows the sha256 of the whole.
"""

import struct
from collections.abc import Iterator

import numpy as np

MAGIC = 0xDB4775248B80FB57
FOOTER_BYTES = 48
TRAILER_BYTES = 5  # after each block: one byte for its compression, four for its checksum
FLOAT32 = 1  # tensorflow/core/framework/types.proto


class BundleError(ValueError):
    """Bytes that are no TensorFlow checkpoint of the supported kind, or damaged ones."""


def read(index: bytes, data: bytes) -> dict[str, np.ndarray]:
    """Read the float32 tensors of a checkpoint by their names.

    Args:
        index, data: contents of the two files.

    Raises:
        BundleError: they are damaged or of another format.
    """
    try:
        entries = dict(_entries(index))
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise BundleError(f"no readable index of a TensorFlow checkpoint: {error}") from error
    tensors = {}
    for name, message in entries.items():
        if not name:  # the header of the bundle
            continue
        fields = _fields(message)
        if fields.get(1, 0) != FLOAT32:
            continue
        offset, size = fields.get(4, 0), fields.get(5, 0)
        content = data[offset : offset + size]
        shape = _shape(fields.get(2, b""))
        if len(content) != size or size != 4 * np.prod(shape, dtype=int):
            raise BundleError(f"{name}: found {len(content)} bytes, expected {shape} in float32")
        tensors[name] = np.frombuffer(content, "<f4").reshape(shape).copy()
    return tensors


def _entries(index: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield (name, serialised BundleEntryProto) of every tensor."""
    footer = index[-FOOTER_BYTES:]
    if len(footer) < FOOTER_BYTES or struct.unpack("<Q", footer[-8:])[0] != MAGIC:
        raise BundleError("not an index of a TensorFlow checkpoint")
    _, position = _handle(footer, 0)  # of the meta index, which is empty
    root, _ = _handle(footer, position)
    for _, handle in _block(index, *root):
        block, _ = _handle(handle, 0)
        for key, value in _block(index, *block):
            yield key.decode(), value


def _block(index: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield (key, value) of a block; keys are stored without the prefix shared with the last."""
    content = index[offset : offset + size]
    trailer = index[offset + size : offset + size + TRAILER_BYTES]
    if len(trailer) < TRAILER_BYTES or trailer[0] != 0:
        raise BundleError("a compressed or truncated index")
    restarts = struct.unpack("<I", content[-4:])[0]
    end = size - 4 * (restarts + 1)
    position = 0
    key = b""
    while position < end:
        shared, position = _varint(content, position)
        rest, position = _varint(content, position)
        length, position = _varint(content, position)
        key = key[:shared] + content[position : position + rest]
        position += rest
        yield key, content[position : position + length]
        position += length


def _handle(content: bytes, position: int) -> tuple[tuple[int, int], int]:
    """Offset and size of a block, and the position behind them."""
    offset, position = _varint(content, position)
    size, position = _varint(content, position)
    return (offset, size), position


def _varint(content: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise BundleError("a number of more than 64 bits in the index")


def _fields(message: bytes) -> dict[int, int | bytes]:
    """Values of a protocol buffer message by field number; the last of a repeated field."""
    return dict(_all_fields(message))


def _all_fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        kind = tag & 7
        if kind == 0:
            value, position = _varint(message, position)
        elif kind == 2:
            length, position = _varint(message, position)
            value = message[position : position + length]
            position += length
        elif kind == 5:
            value = struct.unpack_from("<I", message, position)[0]
            position += 4
        else:
            raise BundleError(f"a field of wire type {kind} in the index")
        yield tag >> 3, value


def _shape(message: bytes) -> tuple[int, ...]:
    """Sizes of a TensorShapeProto: its field 2, once per dimension, holds the size as field 1."""
    dimensions = [value for number, value in _all_fields(message) if number == 2]
    return tuple(_fields(dimension).get(1, 0) for dimension in dimensions)
