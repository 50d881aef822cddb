"""Adversarial reprogramming (Elsayed et al. 2019): a bounded program tanh(W), added where a mask allows it."""

import torch
from torch import nn
from torch.nn import functional

from ..rooms import unknown


class Adversarial(nn.Module):
    """A program of the input's size: x' = place(x) + bound * tanh(W) * M.

    place "border", the original: the input is shrunk to `scale` of both sides and centred on a canvas of `fill`; the
    program lives in the border around it. It cannot start at the identity, since shrinking makes the room it needs.
    place "everywhere": the input stays and the program covers it all, which starts at the identity (W = 0).

    Args:
        place: "border" or "everywhere".
        scale: side of the embedded input relative to the canvas, 0 < scale < 1 ("border" only).
        bound: largest value of the program, in units of the input that it is added to.
        fill: value of the empty canvas.
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
        if place not in ("border", "everywhere"):
            raise ValueError(
                unknown("place of the adversarial program", place, ("border", "everywhere"))
            )
        if not 0 < scale < 1 or not bound > 0:
            raise ValueError(
                f"adversarial: scale {scale}, bound {bound}; expected 0 < scale < 1 and bound > 0"
            )
        self.place, self.bound, self.fill = place, bound, fill
        self.inner = (round(scale * frames), round(scale * bins))
        top, left = (frames - self.inner[0]) // 2, (bins - self.inner[1]) // 2
        # In functional.pad's order: bins before and after, frames before and after.
        self.padding = (left, bins - self.inner[1] - left, top, frames - self.inner[0] - top)
        mask = torch.ones(1, 1, frames, bins)
        if place == "border":
            mask[..., top : top + self.inner[0], left : left + self.inner[1]] = 0
        self.register_buffer("mask", mask, persistent=False)
        self.program = nn.Parameter(torch.zeros(1, 1, frames, bins))

    def forward(self, x):
        """(B, 1, T, F) -> (B, 1, T, F)."""
        if self.place == "border":
            x = functional.interpolate(x, self.inner, mode="bilinear", align_corners=False)
            x = functional.pad(x, self.padding, value=self.fill)
        return x + self.bound * torch.tanh(self.program) * self.mask
