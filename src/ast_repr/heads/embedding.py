"""The paper's label mapping: LayerNorm and linear layer on the pooled token, or mean frame."""

from typing import Any

import torch
from torch import nn


class EmbeddingHead(nn.Module):
    """LayerNorm(D) and Linear(D, K): 16,916 parameters for AST-base and twenty classes.

    An embedding of frames (B, D, T) is averaged over them first.

    Args:
        n_classes, embed_dim: K and D.
        norm: False omits the LayerNorm.
        dropout: probability, of the values of each frame.
        softmax: the classes exclude one another: the sigmoids of the logits are the outputs of a
            softmax, and add up to 1.

    Raises:
        ValueError: a softmax over a single class.
    """

    input_key = "embedding"  # field of the backbone's Output that is the input

    def __init__(
        self,
        n_classes: int = 20,
        embed_dim: int = 768,
        norm: bool = True,
        dropout: float = 0.0,
        softmax: bool = False,
    ):
        super().__init__()
        if softmax and n_classes < 2:
            raise ValueError(f"embedding: a softmax over {n_classes} class; expected two or more")
        self.softmax = softmax
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(embed_dim) if norm else nn.Identity()
        self.linear = nn.Linear(embed_dim, n_classes)

    def forward(self, output: Any) -> torch.Tensor:
        """Output -> logits (B, K)."""
        embedding = self.dropout(output.embedding)
        if embedding.ndim == 3:
            embedding = embedding.mean(dim=2)
        logits = self.linear(self.norm(embedding))
        return logits_of_softmax(logits.float()) if self.softmax else logits


def logits_of_softmax(scores: torch.Tensor) -> torch.Tensor:
    """Return the logits (B, K) whose sigmoids are the softmax of `scores` (B, K)."""
    classes = torch.arange(scores.shape[1], device=scores.device)
    itself = classes[:, None] == classes  # ONNX Runtime has no torch.eye of booleans
    others = torch.where(itself, -torch.inf, scores[:, None])  # (B, K, K)
    return scores - others.logsumexp(dim=2)
