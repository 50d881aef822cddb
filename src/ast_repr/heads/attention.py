"""Attention over frames (Gururani, Sharma and Lerch 2019): each class has a weight per frame."""

from typing import Any

import torch
from torch import nn

EPS_ATTENTION = 1e-7  # least attention, so that its sum over the frames is never 0
EPS = 1e-6  # probabilities are clamped to EPS..1 - EPS, logits to +-13.8


class AttentionHead(nn.Module):
    """Two 1 x 1 convolutions with sigmoids: attention, and classification of each frame.

    A clip's probability is the mean of its frames' probabilities, weighted by the attention. The
    published network returns it; this one returns its logit. 5,160 parameters for 128 dimensions
    and twenty classes.

    Args:
        n_classes: K.
        embed_dim: D of each embedded frame.
        n_blocks: None, or the blocks that the backbone embeds in place of frames.

    Raises:
        ValueError: the backbone embeds blocks, which are not frames.
    """

    input_key = "embedding"

    def __init__(self, n_classes: int = 20, embed_dim: int = 128, n_blocks: int | None = None):
        super().__init__()
        if n_blocks is not None:
            raise ValueError(
                "attention: the backbone has an embedding per block, not per frame; "
                "use the head layer_mix, or another pooling"
            )
        self.attention = nn.Conv1d(embed_dim, n_classes, 1)
        self.classifier = nn.Conv1d(embed_dim, n_classes, 1)
        for convolution in (self.attention, self.classifier):
            nn.init.kaiming_uniform_(convolution.weight, nonlinearity="relu")
            nn.init.zeros_(convolution.bias)

    def forward(self, output: Any) -> torch.Tensor:
        """Output with an embedding (B, D, T) -> logits (B, K).

        Raises:
            ValueError: the embedding has no frames.
        """
        frames = output.embedding
        if frames.ndim != 3:
            raise ValueError(
                f"attention expects an embedding of (B, D, T), found {tuple(frames.shape)}; "
                "use backbone frame_network, vggish_convnet, cp_resnet or mobile_fcn"
            )
        attention = self._attention(frames)
        probabilities = self.classifier(frames).float().sigmoid()
        return torch.logit((attention * probabilities).sum(-1) / attention.sum(-1), eps=EPS)

    def attention_weights(self, output: Any) -> torch.Tensor:
        """Output with an embedding (B, D, T) -> weights (B, K, T), whose sum over T is 1."""
        attention = self._attention(output.embedding)
        return attention / attention.sum(-1, keepdim=True)

    def _attention(self, frames: torch.Tensor) -> torch.Tensor:
        attention = self.attention(frames).float().sigmoid()
        return attention.clamp(EPS_ATTENTION, 1 - EPS_ATTENTION)
