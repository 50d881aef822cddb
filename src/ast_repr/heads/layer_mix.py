"""Layer mix: the blocks' embeddings are weighted before the label mapping."""

from typing import Any

import torch
from torch import nn

from .embedding import EmbeddingHead


class LayerMix(nn.Module):
    """EmbeddingHead of sum_l a_l e_l, with a = softmax(w) over the L blocks and w = 0 at the start.

    As in probes of speech and music models (Yang et al. 2021, Yuan et al. 2023). 50,720 parameters
    for AST-base and twenty classes, 12 of them w.

    Args:
        n_classes, embed_dim: K and D.
        n_blocks: L; None if the backbone has no embedding per block.

    Raises:
        ValueError: the backbone has no embedding per block.
    """

    input_key = "embedding"

    def __init__(self, n_classes: int = 20, embed_dim: int = 3 * 768, n_blocks: int | None = 12):
        super().__init__()
        if n_blocks is None:
            raise ValueError(
                "layer_mix: the backbone has no embedding per block; "
                "use backbone: {name: ast, pooling: blocks}"
            )
        self.weights = nn.Parameter(torch.zeros(n_blocks))
        self.mapping = EmbeddingHead(n_classes, embed_dim)

    def forward(self, output: Any) -> torch.Tensor:
        """Output, with an embedding (B, D, L) -> logits (B, K)."""
        mixed = output.embedding @ self.weights.softmax(dim=0)
        return self.mapping(output._replace(embedding=mixed))
