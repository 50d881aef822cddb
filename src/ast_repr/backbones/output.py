"""Output of every backbone."""

from typing import NamedTuple

import torch


class Output(NamedTuple):
    """Outputs of a backbone.

    Attributes:
        embedding: (B, D), one vector per clip, or (B, D, T), one per frame.
        source_logits: (B, S), or None if the backbone has no source classes.
        tokens: (B, N, D) of the patches of a transformer, if they are wanted.
    """

    embedding: torch.Tensor
    source_logits: torch.Tensor | None
    tokens: torch.Tensor | None = None
