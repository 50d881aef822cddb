"""Observed labels, class by class, for the heads that scikit-learn fits."""

from collections.abc import Iterator
from typing import Any

import numpy as np

PRESENT = 0.5  # as in `manifest`, which networks do not import


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
