"""A model to hand on: one safetensors file of tensors, under plain JSON of how to build it again.

    metadata: {"ast_repr": JSON of `about`, "sha256": of that text and all tensors, see `seal`}

What is in `about` is for those who write and build it (src/export.py, inference); no path of the
machine it was made on.
"""

import hashlib
import json

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise

from .. import atomic, model_spec


class ReleaseError(ValueError):
    """A file that is no exported model, or a damaged one; the message names it and what to do."""


def save(path, tensors, about):
    """Write a model: `tensors` {name: tensor}, `about` plain values."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(about)
    atomic.write_bytes(
        path, serialise(tensors, metadata={"ast_repr": text, "sha256": content_hash(text, tensors)})
    )


def load(path):
    """{"learned": {name: tensor}, "about": plain values}, as a checkpoint, from what `save` wrote.

    Raises:
        ReleaseError: it is missing, truncated, changed since it was written, or another kind of
            file.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except FileNotFoundError as error:
        raise ReleaseError(
            f"{path}: no such file, expected an exported model; make one by src/export.py"
        ) from error
    except (SafetensorError, OSError) as error:
        raise ReleaseError(
            f"{path}: truncated or not a safetensors file ({error}); fetch or export it again"
        ) from error
    if not {"ast_repr", "sha256"} <= metadata.keys():
        raise ReleaseError(
            f"{path}: found tensors without the header of an exported model, "
            "expected what src/export.py writes"
        )
    found, expected = content_hash(metadata["ast_repr"], tensors), metadata["sha256"]
    if found != expected:
        raise ReleaseError(
            f"{path}: content has sha256 {found[:12]}..., expected {expected[:12]}...: "
            "changed or damaged; fetch or export it again"
        )
    try:
        about = model_spec.parse_json(metadata["ast_repr"])
    except ValueError as error:
        raise ReleaseError(
            f"{path}: its header is not readable ({error}); fetch or export it again"
        ) from error
    return {"learned": tensors, "about": about}


def content_hash(text, tensors):
    """sha256 over the header's text and all tensors."""
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
