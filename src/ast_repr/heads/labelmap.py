"""Mapping the source classes to the target classes, as reprogramming first did it.

"linear": a trainable linear layer on the S source logits.
"groups": nothing trained; a target's logit is the mean of its source logits (Yang et al. 2021, many-to-one mapping).
"""

import torch
from torch import nn

from ..rooms import unknown


class LabelMap(nn.Module):
    """Source logits (B, S) to logits (B, K).

    Args:
        n_classes, n_source: K and S.
        kind: "linear" or "groups".
        groups: K lists of source indices, one list a class; default: consecutive groups of S // K.

    Raises:
        ValueError: the groups are not K non-empty lists of indices below S, or S is smaller than K.
    """

    reads = "source_logits"

    def __init__(self, n_classes=20, n_source=527, kind="linear", groups=None):
        super().__init__()
        if kind not in ("linear", "groups"):
            raise ValueError(unknown("kind of labelmap", kind, ("linear", "groups")))
        if kind == "linear":
            self.map = nn.Linear(n_source, n_classes)
            return
        size = n_source // n_classes
        groups = groups if groups is not None else [list(range(k * size, (k + 1) * size)) for k in range(n_classes)]
        if len(groups) != n_classes or not all(group and all(0 <= s < n_source for s in group) for group in groups):
            raise ValueError(f"labelmap: expected {n_classes} non-empty groups of source indices from 0 to {n_source - 1}")
        self.map = nn.Linear(n_source, n_classes, bias=False).requires_grad_(False)
        mean = torch.zeros(n_classes, n_source)
        for k, group in enumerate(groups):
            mean[k, group] = 1 / len(group)
        self.map.weight.copy_(mean)

    def forward(self, output):
        """Output -> logits (B, K)."""
        return self.map(output.source_logits)
