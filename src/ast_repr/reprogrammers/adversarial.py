"""Adversarial reprogramming (Elsayed et al. 2019): a bounded program tanh(W), added by a mask."""

import torch
from torch import nn
from torch.nn import functional

from ..registry import unknown

PLACES = ("border", "everywhere")


class Adversarial(nn.Module):
    """A program of the input's size: x' = place(x) + bound * tanh(W) * M.

    place "border", the original: the input is shrunk to `scale` of both sides and centred on a
    canvas of `fill`; the program fills the border around it. It cannot start at the identity,
    since the input is shrunk.
    place "everywhere": the input stays and the program covers all of it, which starts at the
    identity (W = 0).

    Args:
        frames, bins: size of the input (T, F).
        place: "border" or "everywhere".
        scale: side of the embedded input relative to the canvas, 0 < scale < 1 ("border" only).
        bound: largest value of the program, in units of its input.
        fill: value of the empty canvas.

    Raises:
        ValueError: an unknown place, or a number out of range.
    """

    def __init__(
        self,
        frames: int = 1024,
        bins: int = 128,
        place: str = "border",
        scale: float = 0.75,
        bound: float = 1.0,
        fill: float = 0.0,
    ):
        super().__init__()
        if place not in PLACES:
            raise ValueError(unknown("place of the adversarial program", place, PLACES))
        if not 0 < scale < 1 or not bound > 0:
            raise ValueError(
                f"adversarial: scale {scale}, bound {bound}; expected 0 < scale < 1 and bound > 0"
            )
        self.place = place
        self.bound = bound
        self.fill = fill
        height = round(scale * frames)
        width = round(scale * bins)
        top = (frames - height) // 2
        left = (bins - width) // 2
        self.inner = (height, width)
        # In functional.pad's order: bins before and after, frames before and after.
        self.padding = (left, bins - width - left, top, frames - height - top)
        mask = torch.ones(1, 1, frames, bins)
        if place == "border":
            mask[..., top : top + height, left : left + width] = 0
        self.register_buffer("mask", mask, persistent=False)
        self.program = nn.Parameter(torch.zeros(1, 1, frames, bins))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, T, F) -> (B, 1, T, F)."""
        if self.place == "border":
            x = functional.interpolate(x, self.inner, mode="bilinear", align_corners=False)
            x = functional.pad(x, self.padding, value=self.fill)
        return x + self.bound * torch.tanh(self.program) * self.mask
