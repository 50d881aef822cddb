"""The paper's label mapping: LayerNorm and linear layer on the pooled token."""

from typing import Any

import torch
from torch import nn


class EmbeddingHead(nn.Module):
    """LayerNorm(D) and Linear(D, K): 16,916 parameters for AST-base and twenty classes.

    Args:
        n_classes, embed_dim: K and D.
        norm: False omits the LayerNorm.
    """

    input_key = "embedding"  # field of the backbone's Output that is the input

    def __init__(self, n_classes: int = 20, embed_dim: int = 768, norm: bool = True):
        super().__init__()
        self.norm = nn.LayerNorm(embed_dim) if norm else nn.Identity()
        self.linear = nn.Linear(embed_dim, n_classes)

    def forward(self, output: Any) -> torch.Tensor:
        """Output -> logits (B, K)."""
        return self.linear(self.norm(output.embedding))
