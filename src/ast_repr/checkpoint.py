"""Checkpoints: tensors, numbers, strings and lists of them, written atomically.

They are read without running code, and in no more memory than their size on disk.
"""

import os
import zipfile

import torch

from . import files


class CheckpointError(ValueError):
    """A checkpoint that cannot be read; the message names the file and what to do."""


def save(path, state):
    """Write `state`, a dict of tensors, numbers, strings, and lists and dicts of them, to `path`.

    The old file stays until the new one is whole.
    """
    with files.replacing(path) as partial:
        torch.save(state, partial)


def load(path):
    """Read a checkpoint onto the CPU.

    Raises:
        CheckpointError: it is missing, truncated, or holds more than plain data (nothing in it is
            run).
    """
    try:
        refuse_compressed(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such checkpoint; train first") from error
    except CheckpointError:
        raise
    except Exception as error:  # torch has one of its own for each kind of other file
        raise CheckpointError(
            f"{path}: not a checkpoint of this project, or truncated; delete it and train again"
        ) from error


def refuse_compressed(path):
    """Refuse a PyTorch file that is larger than it looks; PyTorch itself compresses none.

    Raises:
        CheckpointError: it is compressed, and may fill the memory.
        OSError, zipfile.BadZipFile: it cannot be read.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > os.path.getsize(path):
        raise CheckpointError(f"{path}: compressed, expected a file as PyTorch writes it")
