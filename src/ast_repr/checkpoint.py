"""Checkpoints: tensors, numbers, strings and lists of them, whole or not there.

A checkpoint is what `torch.save` writes, a zip archive, whose comment is the sha256 of all that
stands before it. So a flipped bit is noticed wherever it is, and `torch.load` reads the file as any
other. Reading runs no code from it, and takes no more memory than the file is large.
"""

import io
import struct
import zipfile
from pathlib import Path
from typing import BinaryIO

import torch

from . import atomic, identity

PREFIX = b"sha256:"
SEAL_BYTES = len(PREFIX) + 64
EMPTY_COMMENT = struct.pack("<H", 0)  # the last field of a zip archive: its comment's length
COMMENT = struct.pack("<H", SEAL_BYTES)


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or written; the message names the file and what to do."""


def save(path: str | Path, state: dict) -> None:
    """Write `state` to `path`; the old file stays until the new one is whole.

    Args:
        state: a dict of tensors, numbers, strings, bytes, lists and dicts of them.

    Raises:
        CheckpointError: memory does not suffice.
        OSError: the disk is full, or may not be written to.
    """
    try:
        data = dump(state)
    except MemoryError as error:
        raise CheckpointError(
            f"{path}: no memory left to write it; free some, and run the same command again"
        ) from error
    atomic.write_bytes(path, data)


def load(path: str | Path, remedy: str = "run the stage `train` again, which mends it") -> dict:
    """Read a checkpoint onto the CPU.

    Args:
        path: the file.
        remedy: what to do if it is damaged.

    Raises:
        CheckpointError: it is missing, damaged, or holds more than plain data (none of it is run).
        OSError: it may not be read.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such checkpoint; run the stage `train` first") from error
    try:
        return parse(data)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except Exception as error:  # torch has one of its own for each kind of other file
        raise CheckpointError(
            f"{path}: damaged, or not a checkpoint of this version; {remedy}"
        ) from error


def dump(state: dict) -> bytes:
    """The bytes of a checkpoint file."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    seal(buffer)
    return buffer.getvalue()


def seal(archive: io.BytesIO) -> None:
    """Give a zip archive without a comment the sha256 of its content as its comment."""
    archive.seek(-len(EMPTY_COMMENT), io.SEEK_END)
    archive.write(COMMENT)
    with archive.getbuffer() as content:
        sha256 = identity.of_bytes(content)
    archive.write(PREFIX + sha256.encode())


def parse(data: bytes) -> dict:
    """What `dump` was given.

    Raises:
        ValueError: the bytes are not those that `dump` made.
        Exception: they are, but hold more than plain data; torch has several.
    """
    content, comment = memoryview(data)[:-SEAL_BYTES], data[-SEAL_BYTES:]
    if comment != PREFIX + identity.of_bytes(content).encode():
        raise ValueError("its sha256 is not that of its content")
    refuse_compressed(io.BytesIO(data))
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def refuse_compressed(file: BinaryIO) -> None:
    """Refuse a PyTorch file that unpacks to more than its size; PyTorch itself compresses none.

    Raises:
        CheckpointError: it is compressed, and might fill the memory.
    """
    if not zipfile.is_zipfile(file):  # the older format, which has no compression
        return
    with zipfile.ZipFile(file) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > file.seek(0, io.SEEK_END):
        raise CheckpointError("compressed, expected a file as PyTorch writes it")
