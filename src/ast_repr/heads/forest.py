"""A random forest per class, on its observed clips: OpenMIC-2018's baseline (Humphrey et al. 2018).

scikit-learn grows the trees, which are then copied into tensors for prediction: a checkpoint needs
no pickle and does not depend on the version of scikit-learn.

Layout
    M nodes of all trees of all classes. `branches[m]` are the next nodes of node m, for
    `feature[m]` of the input <= `threshold[m]` and for > `threshold[m]`; a leaf leads to itself.
    `roots[k, t]` is the first node of tree t of class k, `value[m]` the fraction of present clips
    among the training clips of node m.
"""

from typing import Any

import numpy as np
import torch
from torch import nn

from .observed import per_class

EPS = 1e-7  # probabilities are clamped to EPS..1 - EPS, so that their logits are finite
MOST_TREES = 100_000
DEEPEST = 1_000
DTYPES = {
    "feature": np.int32,
    "threshold": np.float32,
    "branches": np.int32,
    "value": np.float32,
}


class ForestHead(nn.Module):
    """Map embeddings (B, D) to the logits of the forests' probabilities.

    `fit` trains it, not gradients; before that every probability is 0.5.

    Args:
        n_classes: K.
        trees, max_depth: size of each forest; the defaults are the baseline's.

    Raises:
        ValueError: a number below 1.
    """

    input_key = "embedding"

    def __init__(self, n_classes: int = 20, trees: int = 100, max_depth: int = 8):
        super().__init__()
        if not 1 <= trees <= MOST_TREES or not 1 <= max_depth <= DEEPEST:
            raise ValueError(
                f"forest: trees {trees}, max_depth {max_depth}; "
                f"expected from 1 to {MOST_TREES} and from 1 to {DEEPEST}"
            )
        self.trees = trees
        self.max_depth = max_depth
        self.register_buffer("feature", torch.zeros(1, dtype=torch.int32))
        self.register_buffer("threshold", torch.zeros(1))
        self.register_buffer("branches", torch.zeros(1, 2, dtype=torch.int32))
        self.register_buffer("value", torch.full((1,), 0.5))
        self.register_buffer("roots", torch.zeros(n_classes, trees, dtype=torch.int32))

    def fit(self, train: Any, valid: Any | None, seed: int) -> None:
        """Grow the forests, one per class, replacing the present ones.

        A class with only one kind observed gets the probability of that kind, 0 or 1; an
        unobserved class gets 0.

        Args:
            train: a dataset.Batch of all training clips, with embeddings (N, D) as features.
            valid: not used, nothing is chosen.
            seed: seed of every forest, as in the baseline.
        """
        trees = []
        roots = []
        n_nodes = 0
        for embeddings, present in per_class(train):
            if present.any() and not present.all():
                grown = self._grow(embeddings, present, seed)
            else:
                grown = [_leaf(float(present.any()))] * self.trees
            starts = []
            for tree in grown:
                starts.append(n_nodes)
                trees.append(tree | {"branches": tree["branches"] + n_nodes})
                n_nodes += len(tree["value"])
            roots.append(starts)
        device = self.value.device
        for name, dtype in DTYPES.items():
            joined = np.concatenate([tree[name] for tree in trees]).astype(dtype)
            setattr(self, name, torch.from_numpy(joined).to(device))
        self.roots = torch.tensor(roots, dtype=torch.int32, device=device)

    def _grow(self, x: np.ndarray, present: np.ndarray, seed: int) -> list[dict[str, np.ndarray]]:
        """Grow the trees of one class, each a dict of arrays with its nodes counted from 0."""
        from sklearn.ensemble import RandomForestClassifier  # slow to import, rarely needed

        forest = RandomForestClassifier(
            n_estimators=self.trees, max_depth=self.max_depth, random_state=seed
        )
        forest.fit(x, present)
        return [_arrays_of(estimator.tree_) for estimator in forest.estimators_]

    def forward(self, output: Any) -> torch.Tensor:
        """Output -> logits (B, K)."""
        x = output.embedding.float()
        node = self.roots.long().flatten().expand(len(x), -1)  # (B, K * trees)
        for _ in range(self.max_depth):
            above = x.gather(1, self.feature[node].long()) > self.threshold[node]
            node = self.branches[node, above.long()].long()
        probabilities = self.value[node].unflatten(1, self.roots.shape).double().mean(-1)
        return torch.logit(probabilities, eps=EPS).float()

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        """Load forests of any number of nodes."""
        for name, buffer in self._buffers.items():
            stored = state_dict.get(prefix + name)
            if stored is not None:
                setattr(self, name, torch.empty_like(stored, device=buffer.device))
        super()._load_from_state_dict(state_dict, prefix, *args)
        if not (self.value.is_meta or self._leads_to_nodes()):
            errors = args[-1]
            errors.append(f"{prefix}branches: they lead out of the forest")

    def _leads_to_nodes(self) -> bool:
        """True if every node that a branch or root leads to exists."""
        count = self.value.numel()
        shapes = [tuple(getattr(self, name).shape) for name in ("feature", "threshold", "value")]
        if shapes != [(count,)] * 3 or tuple(self.branches.shape) != (count, 2):
            return False
        nodes = torch.cat([self.branches.flatten(), self.roots.flatten()]).long()
        inside = (nodes >= 0) & (nodes < count)
        return bool(inside.all()) and bool((self.feature >= 0).all())


def _leaf(value: float) -> dict[str, np.ndarray]:
    """Return a tree that always predicts `value`."""
    return {
        "feature": np.zeros(1),
        "threshold": np.zeros(1),
        "branches": np.zeros((1, 2), int),
        "value": np.array([value]),
    }


def _arrays_of(tree: Any) -> dict[str, np.ndarray]:
    """Convert a scikit-learn tree to arrays.

    Thresholds are rounded down to float32, which gives the same branches for float32 inputs.
    """
    is_leaf = tree.children_left < 0
    nodes = np.arange(tree.node_count)
    left = np.where(is_leaf, nodes, tree.children_left)
    right = np.where(is_leaf, nodes, tree.children_right)
    rounded = tree.threshold.astype(np.float32)
    below = np.nextafter(rounded, np.float32(-np.inf))
    return {
        "feature": np.where(is_leaf, 0, tree.feature),
        "threshold": np.where(rounded > tree.threshold, below, rounded),
        "branches": np.stack([left, right], axis=1),
        "value": tree.value[:, 0, 1],
    }
