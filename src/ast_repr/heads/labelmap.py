"""Mapping the source classes to the target classes, as reprogramming first did it.

"linear": a trainable linear layer on the S source logits.
"groups": nothing trained; a target's logit is the mean of its source logits (Yang et al. 2021).
"names": nothing trained; a target sounds where any of the sources that mean it does (zero-shot).
"""

import torch
from torch import nn

from ..rooms import unknown

KINDS = ("linear", "groups", "names")
ACTIVATIONS = ("sigmoid", "softmax")


class LabelMap(nn.Module):
    """Source logits (B, S) to logits (B, K).

    Args:
        n_classes, n_source: K and S.
        kind: "linear", "groups" or "names".
        groups: K lists of source indices, one list a class; a source may be in several. Default of
            "groups": consecutive groups of S // K; "names" needs them (see the function `groups`).
        activation: of the source classes, for "names": "sigmoid" where they were trained
            independently of each other, 1 - prod(1 - p); "softmax" where they exclude each other,
            the sum of their probabilities.

    Raises:
        ValueError: an unknown kind or activation, no source classes, or groups that are not K
            non-empty lists of different source indices below S.
    """

    reads = "source_logits"

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
                "labelmap: the backbone has no source classes; use backbone ast, or another head"
            )
        self.kind, self.activation = kind, activation
        if kind == "linear":
            self.map = nn.Linear(n_source, n_classes)
            return
        if kind == "names" and groups is None:
            raise ValueError(
                f"labelmap: kind names needs groups, {n_classes} lists of source indices"
            )
        size = n_source // n_classes
        groups = (
            groups
            if groups is not None
            else [list(range(k * size, (k + 1) * size)) for k in range(n_classes)]
        )
        fits = all(
            group and len(set(group)) == len(group) and all(0 <= s < n_source for s in group)
            for group in groups
        )
        if len(groups) != n_classes or not fits:
            raise ValueError(
                f"labelmap: expected {n_classes} non-empty groups of source indices from 0 to {n_source - 1}, none twice in a group"
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

    def forward(self, output):
        """Output -> logits (B, K)."""
        if self.kind != "names":
            return self.map(output.source_logits)
        sources = output.source_logits
        if self.activation == "sigmoid":
            return torch.stack([any_of(sources[:, group]) for group in self.groups], dim=1)
        inside = sources[:, None].masked_fill(~self.member, -torch.inf)
        outside = sources[:, None].masked_fill(self.member, -torch.inf)
        return inside.logsumexp(-1) - outside.logsumexp(-1)


def any_of(logits):
    """Logit of 1 - prod(1 - sigmoid(logits)) over the last dimension: (B, G) -> (B,).

    The odds of "a or b" are those of a, plus those of b, plus their product; so it stays exact
    however sure the sources are.
    """
    either, *others = logits.unbind(-1)
    for other in others:
        either = torch.stack([either, other, either + other]).logsumexp(0)
    return either


def groups(table, classes, source_labels):
    """Source indices of each class, from names.

    Args:
        table: {class: names of the source classes that mean it}; other classes may be in it.
        classes: K target classes.
        source_labels: S names, in the order of the source logits.

    Returns:
        K lists of indices.

    Raises:
        ValueError: classes that the table lacks or has no names for, or names that the source does
            not have; all are listed.
    """
    if missing := [name for name in classes if not table.get(name)]:
        raise ValueError(
            f"zero-shot: no source names for {', '.join(missing)}; the table has {', '.join(sorted(k for k in table if table[k]))}"
        )
    places = {label: index for index, label in enumerate(source_labels)}
    if strangers := sorted({name for k in classes for name in table[k]} - places.keys()):
        raise ValueError(
            f"zero-shot: {', '.join(map(repr, strangers))} not among the {len(places)} source classes; correct the table"
        )
    return [[places[name] for name in table[k]] for k in classes]
