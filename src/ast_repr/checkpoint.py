"""Checkpoints: tensors and plain values, complete or absent.

A checkpoint is the zip archive that `torch.save` writes, with the sha256 of its content as the
archive's comment: any flipped bit is detected, and `torch.load` reads the file as usual. Reading
runs no code from it, and takes no more memory than the size of the file.
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
    """A checkpoint that cannot be read or written."""


def save(path: str | Path, state: dict) -> None:
    """Write tensors and plain values to `path` atomically.

    Raises:
        CheckpointError: out of memory.
        OSError: the disk is full or not writable.
    """
    try:
        data = dump(state)
    except MemoryError as error:
        raise CheckpointError(
            f"{path}: no memory left to write it; free some, and run the same command again"
        ) from error
    atomic.write_bytes(path, data)


def load(path: str | Path, remedy: str = "run the stage `train` again, which repairs it") -> dict:
    """Read a checkpoint onto the CPU.

    Raises:
        CheckpointError: it is missing, damaged (the message ends in `remedy`), or holds more than
            plain data (none of it is run).
        OSError: it cannot be read.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such checkpoint; run the stage `train` first") from error
    try:
        return parse(data)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except Exception as error:  # torch has a different one for each kind of other file
        raise CheckpointError(
            f"{path}: damaged, or not a checkpoint of this version; {remedy}"
        ) from error


def dump(state: dict) -> bytes:
    """Return the bytes of a checkpoint file."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    seal(buffer)
    return buffer.getvalue()


def seal(archive: io.BytesIO) -> None:
    """Add the sha256 of its content to a zip archive without a comment, as its comment."""
    archive.seek(-len(EMPTY_COMMENT), io.SEEK_END)
    archive.write(COMMENT)
    with archive.getbuffer() as content:
        sha256 = identity.of_bytes(content)
    archive.write(PREFIX + sha256.encode())


def parse(data: bytes) -> dict:
    """Parse the bytes of `dump`; other bytes raise exceptions of any kind."""
    content = memoryview(data)[:-SEAL_BYTES]
    if data[-SEAL_BYTES:] != PREFIX + identity.of_bytes(content).encode():
        raise ValueError("its sha256 is not that of its content")
    refuse_compressed(io.BytesIO(data))
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def refuse_compressed(file: BinaryIO) -> None:
    """Refuse a compressed PyTorch file, which might fill the memory; PyTorch compresses none."""
    if not zipfile.is_zipfile(file):  # the older format, which has no compression
        return
    with zipfile.ZipFile(file) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > file.seek(0, io.SEEK_END):
        raise CheckpointError("compressed, expected a file as PyTorch writes it")
