"""Label mapping: source classes to target classes, as in the first work on reprogramming.

"linear": a trainable linear layer on the S source logits.
"groups": not trained; a target's logit is the mean of its source logits (many-to-one mapping,
    Yang et al. 2021).
"names": not trained; a target is present if any source class with its meaning is (zero-shot).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..registry import unknown

KINDS = ("linear", "groups", "names")
ACTIVATIONS = ("sigmoid", "softmax")


class LabelMap(nn.Module):
    """Source logits (B, S) to logits (B, K).

    Args:
        n_classes, n_source: K and S.
        kind: "linear", "groups" or "names".
        groups: source indices of each class; required by "names" (see the function `groups`). The
            default of "groups" is consecutive groups of S // K.
        activation: of the source classes, for "names": "sigmoid", 1 - prod(1 - p), or "softmax",
            the sum of their probabilities.

    Raises:
        ValueError: an unknown kind or activation, no source classes, or groups that are not K
            non-empty lists of different source indices below S.
    """

    input_key = "source_logits"

    def __init__(
        self,
        n_classes: int = 20,
        n_source: int | None = 527,
        kind: str = "linear",
        groups: list[list[int]] | None = None,
        activation: str = "sigmoid",
    ):
        super().__init__()
        if kind not in KINDS:
            raise ValueError(unknown("kind of labelmap", kind, KINDS))
        if activation not in ACTIVATIONS:
            raise ValueError(unknown("activation of labelmap", activation, ACTIVATIONS))
        if not n_source:
            raise ValueError(
                "labelmap: the backbone has no source classes; "
                "use a pre-trained one, or another head"
            )
        self.kind = kind
        self.activation = activation
        if kind == "linear":
            self.map = nn.Linear(n_source, n_classes)
            return
        if groups is None:
            if kind == "names":
                raise ValueError(
                    f"labelmap: kind names needs groups, {n_classes} lists of source indices"
                )
            size = n_source // n_classes
            groups = [list(range(k * size, (k + 1) * size)) for k in range(n_classes)]
        if len(groups) != n_classes or not all(_is_group(group, n_source) for group in groups):
            raise ValueError(
                f"labelmap: expected {n_classes} non-empty groups of source indices "
                f"from 0 to {n_source - 1}, none twice in a group"
            )
        member = torch.zeros(n_classes, n_source)
        for k, group in enumerate(groups):
            member[k, group] = 1
        if kind == "groups":
            self.map = nn.Linear(n_source, n_classes, bias=False).requires_grad_(False)
            self.map.weight.copy_(member / member.sum(dim=1, keepdim=True))
        else:
            self.register_buffer("member", member.bool(), persistent=False)
            self.groups = [list(group) for group in groups]

    def forward(self, output: Any) -> torch.Tensor:
        """Output -> logits (B, K)."""
        return self.map_sources(output.source_logits)

    def map_sources(self, sources: torch.Tensor) -> torch.Tensor:
        """Map source logits (B, S) to logits (B, K)."""
        if self.kind != "names":
            return self.map(sources)
        if self.activation == "sigmoid":
            return torch.stack([any_of(sources[:, group]) for group in self.groups], dim=1)
        inside = sources[:, None].masked_fill(~self.member, -torch.inf)
        outside = sources[:, None].masked_fill(self.member, -torch.inf)
        return inside.logsumexp(-1) - outside.logsumexp(-1)


def _is_group(group: Sequence[int], n_source: int) -> bool:
    different = len(set(group)) == len(group)
    return len(group) > 0 and different and all(0 <= index < n_source for index in group)


def any_of(logits: torch.Tensor) -> torch.Tensor:
    """Compute the logit of 1 - prod(1 - sigmoid(logits)) over the last dimension: (B, G) -> (B,).

    The odds of "a or b" are odds(a) + odds(b) + odds(a) odds(b), exact even close to 1.
    """
    either, *others = logits.unbind(-1)
    for other in others:
        either = torch.stack([either, other, either + other]).logsumexp(0)
    return either


def groups(
    table: Mapping[str, Sequence[str]], classes: Sequence[str], source_labels: Sequence[str]
) -> list[list[int]]:
    """Look up the source indices of each class by name.

    Args:
        table: {class: names of the source classes with its meaning}; may have further classes.
        classes: K target classes.
        source_labels: S names, in the order of the source logits.

    Returns:
        K lists of indices.

    Raises:
        ValueError: classes without names in the table, or unknown source names; all are listed.
    """
    missing = [name for name in classes if not table.get(name)]
    if missing:
        mapped = sorted(name for name in table if table[name])
        raise ValueError(
            f"zero-shot: no source names for {', '.join(missing)}; "
            f"the table has {', '.join(mapped)}"
        )
    indices = {label: index for index, label in enumerate(source_labels)}
    wanted = {name for k in classes for name in table[k]}
    unknown_labels = sorted(wanted - indices.keys())
    if unknown_labels:
        raise ValueError(
            f"zero-shot: {', '.join(map(repr, unknown_labels))} not among the "
            f"{len(indices)} source classes; correct the table"
        )
    return [[indices[name] for name in table[k]] for k in classes]
