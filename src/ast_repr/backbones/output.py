"""What every backbone returns."""

from typing import NamedTuple

import torch


class Output(NamedTuple):
    """embedding (B, D): the pooled token, or (B, D, T) frames for the head attention; source_logits (B, S), or None where the backbone has no source classes."""

    embedding: torch.Tensor
    source_logits: torch.Tensor | None
