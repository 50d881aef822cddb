"""Label maps from statistics of the labels, without gradients: FLM, BLM, BLM+ and calibration.

The method iterative_mapping fits them before each epoch, which makes ILM of FLM. The published maps
count clips of one label each. Here a class counts the clips whose label is observed, as present or
absent, so that clips may have several labels and lack others.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from ..registry import unknown
from .labelmap import ACTIVATIONS, LabelMap
from .observed import PRESENT, per_class, platt

KINDS = ("frequency", "average_precision", "bayesian", "bayesian_plus", "names")
EPS = 1e-12  # least deviation
SHARE = 0.15  # of the number of classes: the default of `top`


class StatisticalLabelMap(nn.Module):
    """Source logits (B, S) to logits (B, K), set by `fit` and not by gradients.

    "frequency" (FLM, Chen et al. 2023): the score of a class is the logit of one source class, the
        one that correlates most with its labels.
    "average_precision": the same, of the source class with the best average precision.
    "bayesian" (BLM, Cai et al. 2024): with the probabilities p of the sources, summed over the
        clips in which class t is observed, w[s, t] = sum(p_s, t present) / (sum(p_s) + smoothing)
        estimates the probability of t given s; the score is sum_s p_s w[s, t] / sum_s p_s.
    "bayesian_plus" (BLM+): w counts the `top` largest probabilities of each clip alone.
    "names": the score is the logit of LabelMap's kind "names", without statistics.

    A scale and an offset per class make scores logits: 40 parameters for twenty classes. They are
    fitted on the training clips (Platt 1999), with a weak penalty in case these are few.

    Args:
        n_classes, n_source: K and S.
        kind: see above.
        activation: of the source classes, "sigmoid" or "softmax"; of the latter the logits are
            log-probabilities.
        smoothing: see above.
        top: for "bayesian_plus"; None: 0.15 K, at least 1.
        groups: for "names", source indices of each class.

    Raises:
        ValueError: an unknown kind or activation, no source classes, a number out of range, or
            groups as LabelMap refuses them.
    """

    input_key = "source_logits"

    def __init__(
        self,
        n_classes: int = 20,
        n_source: int | None = 527,
        kind: str = "bayesian",
        activation: str = "sigmoid",
        smoothing: float = 1.0,
        top: int | None = None,
        groups: list[list[int]] | None = None,
    ):
        super().__init__()
        if kind not in KINDS:
            raise ValueError(unknown("kind of statistical_labelmap", kind, KINDS))
        if activation not in ACTIVATIONS:
            raise ValueError(unknown("activation of statistical_labelmap", activation, ACTIVATIONS))
        if not n_source:
            raise ValueError(
                "statistical_labelmap: the backbone has no source classes; "
                "use a pre-trained one, or another head"
            )
        if top is None:
            top = max(1, int(SHARE * n_classes))
        if not smoothing > 0 or top < 1:
            raise ValueError(
                f"statistical_labelmap: smoothing {smoothing}, top {top}; "
                "expected a smoothing above 0, and one source or more"
            )
        self.kind = kind
        self.activation = activation
        self.smoothing = smoothing
        self.top = min(top, n_source)
        if kind == "names":
            self.lookup = LabelMap(n_classes, n_source, kind, groups, activation)
        else:
            self.register_buffer("weight", torch.zeros(n_source, n_classes))
        self.scale = nn.Parameter(torch.zeros(n_classes), requires_grad=False)
        self.offset = nn.Parameter(torch.zeros(n_classes), requires_grad=False)

    @torch.no_grad()
    def fit(self, train: Any, valid: Any | None, seed: int) -> None:
        """Fit map, scales and offsets, replacing the present ones.

        Args:
            train: a dataset.Batch of all clips of this split, with source logits as features.
            valid, seed: not used.
        """
        train = train._replace(features=train.features.float().cpu())
        if self.kind in CRITERIA:
            self.weight.copy_(best_sources(train, CRITERIA[self.kind]))
        elif self.kind != "names":
            p = self.probabilities(train.features)
            if self.kind == "bayesian_plus":
                largest = p.topk(self.top, dim=1)
                p = torch.zeros_like(p).scatter(1, largest.indices, largest.values)
            observed = train.mask.float().cpu()
            present = observed * (train.targets >= PRESENT).cpu()
            self.weight.copy_(p.T @ present / (p.T @ observed + self.smoothing))
        scores = self.scores(train.features.to(self.scale.device))
        mean = scores.mean(dim=0)
        deviation = scores.std(dim=0).clamp(min=EPS)
        standardised = train._replace(features=(scores - mean) / deviation)
        for k, (values, present) in enumerate(per_class(standardised)):
            self.scale[k], self.offset[k] = platt(values[:, k], present, C=1.0)
        self.scale /= deviation
        self.offset -= self.scale * mean

    @property
    def best_sources(self) -> list[int] | None:
        """Source index of each class, of the kind "average_precision"; otherwise None."""
        if self.kind != "average_precision":
            return None
        return self.weight.argmax(dim=0).tolist()

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Compute the probabilities (B, S) of the source classes."""
        return logits.softmax(dim=1) if self.activation == "softmax" else logits.sigmoid()

    def scores(self, logits: torch.Tensor) -> torch.Tensor:
        """Compute the scores (B, K) from source logits (B, S)."""
        if self.kind == "names":
            return self.lookup.map_sources(logits)
        if self.kind in CRITERIA:
            if self.activation == "softmax":
                logits = logits.log_softmax(dim=1)
            return logits @ self.weight
        p = self.probabilities(logits)
        return p @ self.weight / p.sum(dim=1, keepdim=True)

    def forward(self, output: Any) -> torch.Tensor:
        """Output -> logits (B, K)."""
        return self.scale * self.scores(output.source_logits.float()) + self.offset


def best_sources(
    batch: Any, criterion: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> torch.Tensor:
    """Mark the source that is the best for each class by a criterion, as 1 of (S, K).

    A class without observed labels, or with labels of one kind, gets the first source.

    Args:
        criterion: function of logits (n, S) and presence (n,), with values (S,).
    """
    chosen = torch.zeros(batch.features.shape[1], batch.mask.shape[1])
    for k, (logits, present) in enumerate(per_class(batch)):
        best = 0
        if present.any() and not present.all():
            best = int(criterion(logits, present).argmax())
        chosen[best, k] = 1
    return chosen


def correlations(logits: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Compute the correlation of logits (n, S) with presence (n,), up to a common factor: (S,)."""
    covariance = (logits - logits.mean(axis=0)).T @ (present - present.mean())
    return covariance / np.maximum(logits.std(axis=0), EPS)


def average_precisions(logits: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Compute the average precision of logits (n, S) for presence (n,): (S,).

    Equal logits of a source are ranked in the order of the clips.
    """
    order = np.argsort(-logits, axis=0, kind="stable")
    hits = present[order]
    ranks = np.arange(1, len(hits) + 1)[:, None]
    precision = hits.cumsum(axis=0) / ranks
    return (precision * hits).sum(axis=0) / present.sum()


CRITERIA = {"frequency": correlations, "average_precision": average_precisions}
