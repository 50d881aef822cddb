"""Observed labels, class by class, for the heads that scikit-learn fits, and calibration."""

from collections.abc import Iterator
from typing import Any

import numpy as np

PRESENT = 0.5  # as in `manifest`, which networks do not import
MAX_ITER = 1000
UNPENALISED = 1e6  # C of a regression without a penalty, in effect
CERTAIN = 16.0  # logit of a class that is always present, if no absent clip was observed


def per_class(batch: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the observed clips of each class: embeddings (n, D), and presence (n,) as bool.

    Args:
        batch: features (N, D), targets (N, K) and mask (N, K), as in a dataset.Batch.
    """
    embeddings = batch.features.cpu().numpy()
    present = (batch.targets >= PRESENT).cpu().numpy()
    mask = batch.mask.cpu().numpy()
    for k in range(mask.shape[1]):
        yield embeddings[mask[:, k]], present[mask[:, k], k]


def platt(
    scores: np.ndarray,
    present: np.ndarray,
    weights: np.ndarray | None = None,
    C: float = UNPENALISED,
) -> tuple[float, float]:
    """Fit the scale and the offset of a class's logit, scale * score + offset (Platt 1999).

    Args:
        scores, present: (n,), of observed clips.
        weights: of the clips (n,); None for equal ones.
        C: inverse strength of the penalty of the scale; none, in effect, by default.

    Returns:
        (scale, offset). If all clips are present, or none is, the logit is constant.
    """
    from sklearn.linear_model import LogisticRegression  # slow to import, rarely needed

    if present.all() or not present.any():
        return 0.0, CERTAIN if present.any() else -CERTAIN
    regression = LogisticRegression(C=C, max_iter=MAX_ITER)
    regression.fit(scores[:, None], present, weights)
    return float(regression.coef_[0, 0]), float(regression.intercept_[0])
