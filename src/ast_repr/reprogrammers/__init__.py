"""Reprogrammers: small trainable transformations of the input, (B, 1, T, F) -> (B, 1, T, F).

To add one, write a module with `__init__(self, frames, bins, ...)` in a file here and register it
below; a config selects it by `reprogrammer: {name: ..., its options}`.
"""

from typing import Any

import torch
from torch import nn

from .. import registry
from .adversarial import Adversarial
from .affine import Affine
from .cnn import CNN
from .film import FiLM
from .noise import Noise
from .patch import Patch
from .smm import SMM
from .unet import UNet


class Identity(nn.Module):
    """No reprogramming (AST-BS): only the label mapping is trained."""

    def __init__(self, frames: int = 1024, bins: int = 128):
        super().__init__()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, T, F) -> itself."""
        return x


REPROGRAMMERS = {
    "none": Identity,
    "affine": Affine,
    "noise": Noise,
    "adversarial": Adversarial,
    "cnn": CNN,
    "unet": UNet,
    "patch": Patch,
    "film": FiLM,
    "smm": SMM,
}


def build(name: str | type, frames: int = 1024, bins: int = 128, **kwargs: Any) -> nn.Module:
    """Build the reprogrammer `name` for inputs of frames x bins.

    Raises:
        ValueError: an unknown name or keyword (the message lists the valid ones), or a value out
            of range.
    """
    return registry.build(
        "reprogrammer", REPROGRAMMERS, name, {"frames": frames, "bins": bins, **kwargs}
    )
