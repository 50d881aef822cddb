"""Logistic regression per class on its observed clips, fitted by scikit-learn.

As a probe it has one setting, the strength of its L2 penalty; no learning rate, no epochs.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from .observed import CERTAIN, MAX_ITER, PRESENT, per_class, platt

CS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)


class LogisticHead(nn.Module):
    """Linear(D, K), set by `fit` and not by gradients; before that every logit is 0.

    The regressions are fitted on standardised embeddings; mean and deviation are then folded into
    the layer. Present and absent clips have equal weights: balanced ones gave the same scores on
    validation, and probabilities that do not follow the frequencies of the labels.

    Args:
        n_classes, embed_dim: K and D.
        Cs: inverse strengths of the penalty, as in scikit-learn's LogisticRegressionCV; all classes
            share the one of least log loss on the validation split, which with few labels is less
            noisy than macro-F1.

    Raises:
        ValueError: no strength, or one that is not above 0.
    """

    input_key = "embedding"

    def __init__(self, n_classes: int = 20, embed_dim: int = 768, Cs: Sequence[float] = CS):
        super().__init__()
        if not Cs or min(Cs) <= 0:
            raise ValueError(f"logistic: Cs {list(Cs)}; expected one or more numbers above 0")
        self.Cs = tuple(Cs)
        self.linear = nn.Linear(embed_dim, n_classes).requires_grad_(False)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def fit(self, train: Any, valid: Any | None, seed: int) -> None:
        """Fit the regressions, replacing the present ones.

        A class without observed clips of both kinds gets a constant, absent if it has none.

        Args:
            train, valid: a dataset.Batch of all clips of these splits, with embeddings as features.
            seed: not used, the optimum is unique.

        Raises:
            ValueError: there are several strengths, and no validation split.
        """
        from sklearn.preprocessing import StandardScaler  # slow to import, rarely needed

        if valid is None and len(self.Cs) > 1:
            raise ValueError(
                f"logistic: {len(self.Cs)} Cs and no validation split to choose by; "
                "expected one, set head.Cs=[0.1]"
            )
        scaler = StandardScaler()
        scaler.fit(train.features.cpu().double())
        observed = list(per_class(_standardised(train, scaler)))
        candidates = [_regress(observed, C) for C in self.Cs]
        weight, bias = candidates[0]
        if valid is not None:
            valid = _standardised(valid, scaler)
            weight, bias = min(candidates, key=lambda layer: _log_loss(*layer, valid))
        weight = weight / torch.from_numpy(scaler.scale_)
        bias = bias - weight @ torch.from_numpy(scaler.mean_)
        self.linear.weight.copy_(weight)
        self.linear.bias.copy_(bias)

    def calibrate(self, held_out: Any, prior: float) -> None:
        """Scale and shift the logits of each class so that they fit held-out clips (Platt 1999).

        Clips are weighted as if each class were present in a share `prior` of them. The scale and
        the shift become part of the layer. A class that has a constant, or no held-out clips of
        both kinds, stays as it is.

        Args:
            held_out: as `valid` of `fit`.
            prior: between 0 and 1.
        """
        for k, (embeddings, present) in enumerate(per_class(held_out)):
            weight = self.linear.weight[k]
            if not weight.any() or not present.any() or present.all():
                continue
            logits = embeddings @ weight.numpy() + self.linear.bias[k].item()
            share = present.mean()
            weights = np.where(present, prior / share, (1 - prior) / (1 - share))
            scale, offset = platt(logits, present, weights)
            weight *= scale
            self.linear.bias[k] = scale * self.linear.bias[k] + offset

    def forward(self, output: Any) -> torch.Tensor:
        """Output -> logits (B, K)."""
        return self.linear(output.embedding)


def _standardised(batch: Any, scaler: Any) -> Any:
    embeddings = scaler.transform(batch.features.cpu().double())
    return batch._replace(features=torch.from_numpy(embeddings))


def _regress(observed: list, C: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Fit the regression of each class: weights (K, D) and biases (K,), float64."""
    from sklearn.linear_model import LogisticRegression

    weights = []
    biases = []
    for embeddings, present in observed:
        weight = np.zeros(embeddings.shape[1])
        bias = CERTAIN if present.any() else -CERTAIN
        if present.any() and not present.all():
            regression = LogisticRegression(C=C, max_iter=MAX_ITER).fit(embeddings, present)
            weight = regression.coef_[0]
            bias = regression.intercept_[0]
        weights.append(weight)
        biases.append(bias)
    return torch.from_numpy(np.stack(weights)), torch.tensor(biases, dtype=torch.float64)


def _log_loss(weight: torch.Tensor, bias: torch.Tensor, batch: Any) -> float:
    """Compute the mean log loss of the observed cells."""
    mask = batch.mask.cpu()
    logits = batch.features @ weight.T + bias
    present = (batch.targets.cpu() >= PRESENT).double()
    return functional.binary_cross_entropy_with_logits(logits[mask], present[mask]).item()
