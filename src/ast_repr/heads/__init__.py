"""Heads: the output mapping, Output(embedding (B, D), source_logits (B, S)) -> logits (B, K).

Heads with attention have `attention_weights(output) -> (B, K, N)`, over the embedded segments or
the tokens.
"""

from typing import Any

from torch import nn

from .. import registry
from . import labelmap
from .attention import AttentionHead
from .attentive_pooling import AttentivePooling
from .embedding import EmbeddingHead
from .forest import ForestHead
from .labelmap import LabelMap
from .layer_mix import LayerMix
from .logistic import LogisticHead
from .prototypes import Prototypes
from .statistical_labelmap import StatisticalLabelMap

HEADS = {
    "embedding": EmbeddingHead,
    "labelmap": LabelMap,
    "statistical_labelmap": StatisticalLabelMap,
    "attention": AttentionHead,
    "attentive_pooling": AttentivePooling,
    "prototypes": Prototypes,
    "layer_mix": LayerMix,
    "forest": ForestHead,
    "logistic": LogisticHead,
}

__all__ = ["HEADS", "build", "labelmap"]


def build(
    name: str | type,
    n_classes: int,
    embed_dim: int | None = None,
    n_source: int | None = None,
    token_dim: int | None = None,
    n_blocks: int | None = None,
    **kwargs: Any,
) -> nn.Module:
    """Build the head `name`; it gets those of the four sizes of the backbone that it takes.

    Raises:
        ValueError: an unknown name or keyword (the message lists the valid ones), or a value out
            of range.
    """
    return registry.build(
        "head",
        HEADS,
        name,
        {"n_classes": n_classes, **kwargs},
        {
            "embed_dim": embed_dim,
            "n_source": n_source,
            "token_dim": token_dim,
            "n_blocks": n_blocks,
        },
    )
