"""Attention over frames (Gururani, Sharma and Lerch 2019): each class weighs the frames, and its own verdict on each, by itself."""

import torch
from torch import nn

CLAMP = 1e-7  # of the attention, so that its sum over the frames is never 0
SURE = (
    1e-6  # a clip's probability is kept this far from 0 and 1, so that its logit is within +-13.8
)


class AttentionHead(nn.Module):
    """Two 1 x 1 convolutions with sigmoids: attention, divided by its sum over the frames, and verdicts; 5,160 parameters for 128 and twenty.

    A clip's probability is the attention-weighted mean of the frames' verdicts; the published network ends there,
    and this one in its logit.

    Args:
        n_classes: K.
        embed_dim: D, of each embedded frame.
    """

    reads = "embedding"

    def __init__(self, n_classes: int = 20, embed_dim: int = 128):
        super().__init__()
        self.attention = nn.Conv1d(embed_dim, n_classes, 1)
        self.verdict = nn.Conv1d(embed_dim, n_classes, 1)
        for convolution in (self.attention, self.verdict):
            nn.init.kaiming_uniform_(convolution.weight, nonlinearity="relu")
            nn.init.zeros_(convolution.bias)

    def forward(self, output):
        """Output with an embedding (B, D, T) -> logits (B, K).

        Raises:
            ValueError: the embedding has no frames.
        """
        if output.embedding.ndim != 3:
            raise ValueError(
                f"attention expects an embedding of (B, D, T), found {tuple(output.embedding.shape)}; use backbone frame_network"
            )
        attention = self.attention(output.embedding).float().sigmoid().clamp(CLAMP, 1 - CLAMP)
        verdicts = self.verdict(output.embedding).float().sigmoid()
        probabilities = (attention * verdicts).sum(-1) / attention.sum(-1)
        return torch.logit(probabilities, eps=SURE)
