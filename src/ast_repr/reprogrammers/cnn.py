"""CNN reprogramming (AST-CNNRP, Chen and Lerch 2023): two 3 x 3 convolutions.

As published there is no nonlinearity between them.
"""

import torch
from torch import nn

from ..registry import unknown

NONLINEARITIES = {"none": nn.Identity, "relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}


class CNN(nn.Module):
    """conv 1 -> width, nonlinearity, conv width -> 1, with bias.

    As published it has 20 parameters (an affine 5 x 5 filter) and starts at random kernels, not at
    the identity. `residual` adds the input and starts the last convolution at zero, so that
    training starts at the identity.

    Args:
        frames, bins: size of the input (T, F).
        width: channels between the two convolutions.
        nonlinearity: "none", "relu", "gelu" or "tanh".
        residual: see above.

    Raises:
        ValueError: an unknown nonlinearity, or a width below 1.
    """

    def __init__(
        self,
        frames: int = 1024,
        bins: int = 128,
        width: int = 1,
        nonlinearity: str = "none",
        residual: bool = False,
    ):
        super().__init__()
        if nonlinearity not in NONLINEARITIES:
            raise ValueError(unknown("nonlinearity of cnn", nonlinearity, NONLINEARITIES))
        if width < 1:
            raise ValueError(f"cnn: width {width}; expected 1 or more")
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.nonlinearity = NONLINEARITIES[nonlinearity]()
        self.last = nn.Conv2d(width, 1, 3, padding=1)
        self.residual = residual
        if residual:
            nn.init.zeros_(self.last.weight)
            nn.init.zeros_(self.last.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, T, F) -> (B, 1, T, F)."""
        y = self.last(self.nonlinearity(self.first(x)))
        return x + y if self.residual else y
