"""Exported models: one safetensors file of tensors, with their description as plain JSON.

metadata: {"ast_repr": JSON of the description, "sha256": of that text and all tensors}
"""

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise

from .. import atomic
from .description import ExportError, parse


def save(path: Path, tensors: dict[str, torch.Tensor], about: dict) -> None:
    """Write a model.

    Args:
        tensors: {name: tensor}.
        about: its description, plain values.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(about)
    metadata = {"ast_repr": text, "sha256": content_hash(text, tensors)}
    atomic.write_bytes(path, serialise(tensors, metadata=metadata))


def load(path: Path) -> dict:
    """Read a model: {"learned": {name: tensor}, "about": its description}, as in a checkpoint.

    Raises:
        ExportError: it is missing, damaged, or another kind of file.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise ExportError(
            f"{path}: truncated or not a safetensors file ({error}); fetch or export it again"
        ) from error
    if not {"ast_repr", "sha256"} <= metadata.keys():
        raise ExportError(
            f"{path}: tensors without the header of an exported model; "
            "make one by `ast-repr export`"
        )
    text = metadata["ast_repr"]
    sha256 = content_hash(text, tensors)
    return {"learned": tensors} | parse(path, {"about": text}, sha256, metadata["sha256"])


def content_hash(text: str, tensors: dict[str, torch.Tensor]) -> str:
    """Compute the sha256 over the description's text and all tensors."""
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
