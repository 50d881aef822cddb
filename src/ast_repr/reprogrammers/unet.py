"""U-Net reprogramming (AST-URP, Chen and Lerch 2023): three levels, added skips, 1,285 weights."""

import torch
from torch import nn
from torch.nn import functional

from ..registry import unknown

LEARNED = ("all", "statistics", "nothing")


class UNet(nn.Module):
    """The published U-Net: every stage is conv 3 x 3 without bias, BatchNorm, ReLU.

        e1 1 -> 4, pool    e2 4 -> 8, pool    e3 8 -> 8, pool
        d4 8 -> 4 on up(e3) + e2    d5 4 -> 1 on up(d4) + e1    d6 1 -> 1 on up(d5) + x

    pool is 2 x 2 maximum, up is bilinear by 2 with aligned corners. As published, d6 ends in
    BatchNorm and ReLU, so training starts far from the identity and the backbone never gets a
    negative value. With `residual` the last stage is a plain convolution that starts at zero and
    is added to the input: training starts exactly at the identity.

    Args:
        frames, bins: size of the input (T, F).
        residual: see above (1,284 parameters: d6 is then nine weights and a bias).
        learns: "all"; "statistics": the parameters stay random and only BatchNorm's running
            statistics are updated, as in the authors' code at the published commit; "nothing".

    Raises:
        ValueError: a side of the input is not a multiple of 8, or another value of `learns`.
    """

    def __init__(
        self, frames: int = 1024, bins: int = 128, residual: bool = False, learns: str = "all"
    ):
        super().__init__()
        if learns not in LEARNED:
            raise ValueError(unknown("value of learns of unet", learns, LEARNED))
        if frames % 8 or bins % 8:
            raise ValueError(
                "unet halves its input three times: "
                f"{frames} x {bins} frames x bins are not multiples of 8"
            )
        self.e1 = _stage(1, 4)
        self.e2 = _stage(4, 8)
        self.e3 = _stage(8, 8)
        self.d4 = _stage(8, 4)
        self.d5 = _stage(4, 1)
        self.residual = residual
        if residual:
            self.d6 = nn.Conv2d(1, 1, 3, padding=1)
            nn.init.zeros_(self.d6.weight)
            nn.init.zeros_(self.d6.bias)
        else:
            self.d6 = _stage(1, 1)
        self.learns = learns
        self.requires_grad_(learns == "all")
        self.train()

    def train(self, mode: bool = True) -> "UNet":
        """Set the mode; with `learns="nothing"` it stays in eval mode."""
        return super().train(mode and self.learns != "nothing")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, T, F) -> (B, 1, T, F)."""
        e1 = functional.max_pool2d(self.e1(x), 2)
        e2 = functional.max_pool2d(self.e2(e1), 2)
        e3 = functional.max_pool2d(self.e3(e2), 2)
        d4 = self.d4(_up(e3) + e2)
        d5 = self.d5(_up(d4) + e1)
        d6 = self.d6(_up(d5) + x)
        return x + d6 if self.residual else d6


def _stage(channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


def _up(x: torch.Tensor) -> torch.Tensor:
    return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
