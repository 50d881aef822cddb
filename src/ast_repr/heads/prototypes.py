"""Binarised prototypes: the patches are compared with trained vectors of signs."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

MOST = 10_000  # prototypes


class Prototypes(nn.Module):
    """Linear(J, K) of max_n cos(z_n, p_j) sqrt(D) for J prototypes p_j of -1 and 1.

    z are the N tokens of the patches after the last norm. p is the sign of real parameters, whose
    gradient is that of p (straight-through estimator). After Rauch et al. 2026, with settings of
    our own. 78,820 parameters for AST-base, twenty classes and 100 prototypes.

    Args:
        n_classes: K.
        token_dim: D; None if the backbone has no tokens.
        prototypes: J.

    Raises:
        ValueError: the backbone has no tokens, or the number of prototypes is out of range.
    """

    input_key = "tokens"

    def __init__(self, n_classes: int = 20, token_dim: int | None = 768, prototypes: int = 100):
        super().__init__()
        if token_dim is None:
            raise ValueError("prototypes: the backbone has no tokens; use backbone ast")
        if not 1 <= prototypes <= MOST:
            raise ValueError(f"prototypes: {prototypes} of them; expected from 1 to {MOST}")
        self.prototypes = nn.Parameter(torch.empty(prototypes, token_dim))
        nn.init.xavier_uniform_(self.prototypes)
        self.linear = nn.Linear(prototypes, n_classes)

    def forward(self, output: Any) -> torch.Tensor:
        """Output -> logits (B, K)."""
        signs = torch.where(self.prototypes < 0, -1.0, 1.0)
        signs = self.prototypes + (signs - self.prototypes).detach()
        tokens = functional.normalize(output.tokens, dim=2)
        similarity = (tokens @ signs.T).amax(dim=1)
        return self.linear(similarity)
