"""One random forest for each class, on its observed clips alone: OpenMIC-2018's own baseline (Humphrey et al. 2018).

scikit-learn grows the trees. They are then copied into tensors, from which alone the head predicts:
a checkpoint needs neither pickle nor scikit-learn's version of the day.

Layout
    M nodes, of all trees of all classes in one row; `branches[m]` are the nodes to go to where
    `feature[m]` of the input is at most `threshold[m]`, and where it is above. A leaf leads to
    itself. `roots[k, t]`: the first node of tree t of class k. `value[m]`: the fraction present
    among the training clips of node m.
"""

import numpy as np
import torch
from sklearn.ensemble import RandomForestClassifier
from torch import nn

PRESENT = 0.5  # as in `manifest`, which networks do not know
MOST_TREES = 100_000
DEEPEST = 1_000
SURE = 1e-7  # probabilities are kept this far from 0 and 1, so that their logits are finite


class ForestHead(nn.Module):
    """Embeddings (B, D) to the logit of the forests' probabilities; nothing here learns by gradient.

    Before `fit` every probability is 0.5.

    Args:
        n_classes: K.
        trees, max_depth: of each forest; the defaults are the baseline's.
    """

    reads = "embedding"

    def __init__(self, n_classes: int = 20, trees: int = 100, max_depth: int = 8):
        super().__init__()
        if not 1 <= trees <= MOST_TREES or not 1 <= max_depth <= DEEPEST:
            raise ValueError(
                f"forest: trees {trees}, max_depth {max_depth}; "
                f"expected from 1 to {MOST_TREES} and from 1 to {DEEPEST}"
            )
        self.trees, self.max_depth = trees, max_depth
        self.register_buffer("feature", torch.zeros(1, dtype=torch.int32))
        self.register_buffer("threshold", torch.zeros(1))
        self.register_buffer("branches", torch.zeros(1, 2, dtype=torch.int32))
        self.register_buffer("value", torch.full((1,), 0.5))
        self.register_buffer("roots", torch.zeros(n_classes, trees, dtype=torch.int32))

    def fit(self, reads, targets, mask, seed):
        """Grow the forests, one a class, in place of what was there.

        A class of which only one side is observed gets that side's probability, 0 or 1; one that is
        not observed, 0.

        Args:
            reads: (N, D) embeddings.
            targets, mask: (N, K) relevances, and where they are observed.
            seed: of every forest, as in the baseline.

        Raises:
            ValueError: shapes do not fit.
        """
        reads, targets, mask = (
            np.asarray(torch.as_tensor(array).cpu()) for array in (reads, targets, mask)
        )
        if (
            reads.ndim != 2
            or targets.shape != (len(reads), len(self.roots))
            or mask.shape != targets.shape
        ):
            shapes = f"reads {reads.shape}, targets {targets.shape}, mask {mask.shape}"
            raise ValueError(f"forest: {shapes}; expected (N, D) and twice (N, {len(self.roots)})")
        nodes, roots, count = [], [], 0
        for observed, relevance in zip(mask.T.astype(bool), targets.T):
            present = relevance[observed] >= PRESENT
            grown = (
                self._grow(reads[observed], present, seed)
                if len(set(present.tolist())) == 2
                else [leaf(float(present.any()))]
            )
            starts = []
            for tree in grown:
                starts.append(count)
                nodes.append(tree | {"branches": tree["branches"] + count})
                count += len(tree["value"])
            roots.append(starts if len(starts) > 1 else starts * self.trees)
        device = self.value.device
        for name in ("feature", "threshold", "branches", "value"):
            joined = np.concatenate([tree[name] for tree in nodes]).astype(
                np.float32 if name in ("threshold", "value") else np.int32
            )
            setattr(self, name, torch.from_numpy(joined).to(device))
        self.roots = torch.tensor(roots, dtype=torch.int32, device=device)

    def _grow(self, reads, present, seed):
        """One class's trees, each a dict of arrays with its own nodes counted from 0."""
        forest = RandomForestClassifier(
            n_estimators=self.trees, max_depth=self.max_depth, random_state=seed
        ).fit(reads, present)
        return [nodes_of(estimator.tree_) for estimator in forest.estimators_]

    def forward(self, output):
        """Output -> logits (B, K)."""
        x = output.embedding.float()
        node = self.roots.long().flatten().expand(len(x), -1)  # (B, K * trees)
        for _ in range(self.max_depth):
            above = x.gather(1, self.feature[node].long()) > self.threshold[node]
            node = self.branches[node, above.long()].long()
        probabilities = self.value[node].unflatten(1, self.roots.shape).double().mean(-1)
        return torch.logit(probabilities, eps=SURE).float()

    def _load_from_state_dict(self, state_dict, prefix, *args):
        for name in ("feature", "threshold", "branches", "value"):  # one entry per stored node
            if prefix + name in state_dict:
                device = self.value.device
                setattr(self, name, torch.empty_like(state_dict[prefix + name], device=device))
        super()._load_from_state_dict(state_dict, prefix, *args)
        if not (self.value.is_meta or self._leads_to_nodes()):
            errors = args[-1]
            errors.append(f"{prefix}branches: they lead out of the forest")

    def _leads_to_nodes(self):
        """Whether every node and branch that a walk may come to is there."""
        count = self.value.numel()
        shapes = [tuple(getattr(self, name).shape) for name in ("feature", "threshold", "value")]
        if shapes != [(count,)] * 3 or tuple(self.branches.shape) != (count, 2):
            return False
        nodes = torch.cat([self.branches.flatten(), self.roots.flatten()]).long()
        inside = (nodes >= 0) & (nodes < count)
        return bool(inside.all()) and bool((self.feature >= 0).all())


def leaf(value):
    """A tree that always says `value`."""
    return {
        "feature": np.zeros(1),
        "threshold": np.zeros(1),
        "branches": np.zeros((1, 2), int),
        "value": np.array([value]),
    }


def nodes_of(tree):
    """A scikit-learn tree as arrays; thresholds are rounded down to float32, which float32 inputs cannot tell from the original."""
    is_leaf = tree.children_left < 0
    own = np.arange(tree.node_count)
    near = tree.threshold.astype(np.float32)
    below = np.nextafter(near, np.float32(-np.inf))
    return {
        "feature": np.where(is_leaf, 0, tree.feature),
        "threshold": np.where(near > tree.threshold, below, near),
        "branches": np.stack(
            [
                np.where(is_leaf, own, tree.children_left),
                np.where(is_leaf, own, tree.children_right),
            ],
            axis=1,
        ),
        "value": tree.value[:, 0, 1],
    }
