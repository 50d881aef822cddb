"""Heads: the output mapping, `Output(embedding (B, D), source_logits (B, S)) -> logits (B, K)`."""

from .. import rooms
from . import labelmap
from .attention import AttentionHead
from .embedding import EmbeddingHead
from .forest import ForestHead
from .labelmap import LabelMap

HEADS = {
    "embedding": EmbeddingHead,
    "labelmap": LabelMap,
    "attention": AttentionHead,
    "forest": ForestHead,
}

__all__ = ["HEADS", "build", "labelmap"]


def build(name, n_classes, embed_dim=None, n_source=None, **kwargs):
    """Build the head `name` for `n_classes` classes; it takes of `embed_dim` and `n_source` what it needs.

    Raises:
        ValueError: an unknown name or keyword (the message lists what there is), or a value out of range.
    """
    return rooms.build(
        "head",
        HEADS,
        name,
        {"n_classes": n_classes, **kwargs},
        {"embed_dim": embed_dim, "n_source": n_source},
    )
