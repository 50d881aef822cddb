"""Attentive pooling: each class has a weight per patch of the input."""

from typing import Any

import torch
from torch import nn


class AttentivePooling(nn.Module):
    """logit = sum_n a_n (w z_n) + b for each class, with a = softmax_n(q z_n / sqrt(D)).

    z are the N tokens of the patches after the last norm. q starts at zero, the mean over patches.
    30,740 parameters for AST-base and twenty classes.

    Args:
        n_classes: K.
        token_dim: D; None if the backbone has no tokens.

    Raises:
        ValueError: the backbone has no tokens.
    """

    input_key = "tokens"

    def __init__(self, n_classes: int = 20, token_dim: int | None = 768):
        super().__init__()
        if token_dim is None:
            raise ValueError("attentive_pooling: the backbone has no tokens; use backbone ast")
        self.query = nn.Linear(token_dim, n_classes, bias=False)
        self.linear = nn.Linear(token_dim, n_classes)
        nn.init.zeros_(self.query.weight)

    def forward(self, output: Any) -> torch.Tensor:
        """Output -> logits (B, K)."""
        return (self._attention(output.tokens) * self.linear(output.tokens)).sum(dim=1)

    def attention_weights(self, output: Any) -> torch.Tensor:
        """Output -> weights of the patches (B, K, N), whose sum over N is 1."""
        return self._attention(output.tokens).transpose(1, 2)

    def _attention(self, tokens: torch.Tensor) -> torch.Tensor:
        return (self.query(tokens) / tokens.shape[-1] ** 0.5).softmax(dim=1)
