"""Checkpoints: tensors, numbers, strings and lists of them, written atomically and read without running code."""

import torch

from . import files


class CheckpointError(ValueError):
    """A checkpoint that cannot be read; the message names the file and what to do."""


def save(path, state):
    """Write `state` (a dict of tensors, numbers, strings, lists and dicts of them) to `path`; the old file stays until the new one is whole."""
    with files.replacing(path) as partial, open(partial, "wb") as file:
        torch.save(state, file)  # to an open file, so that a full disk can be told from a bug


def load(path):
    """Read a checkpoint onto the CPU.

    Raises:
        CheckpointError: it is missing, truncated, or holds more than plain data (nothing in it is run).
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such checkpoint; train first") from error
    except Exception as error:  # torch has one of its own for each kind of other file
        raise CheckpointError(
            f"{path}: not a checkpoint of this project, or truncated; delete it and train again"
        ) from error
