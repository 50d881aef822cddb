"""The reprogrammed classifier: log-mel -> normalisation -> reprogrammer -> frozen backbone -> head.

Freeze policy, stated once: the reprogrammer and the head learn. The backbone does not: its parameters need no
gradient, and it stays in eval mode whatever mode the classifier is put in; gradients only pass through it to the
reprogrammer. With `finetune` the backbone learns too, except for its source head where the head does not read it.
"""

import numpy as np
import torch
from torch import nn

from . import backbones, heads, reprogrammers
from .rooms import unknown

NORMS = ("backbone", "none", "corpus")


class Reprogrammed(nn.Module):
    """Un-normalised log-mels (B, 1, T, F) to logits (B, K).

    Args:
        reprogrammer, backbone, head: from their rooms.
        norm: what happens to the input before the reprogrammer: "backbone" applies (x - mean) / (2 std) with the
            backbone's own statistics, a pair (mean, std) does so with those, "none" leaves it (as the authors' code did).
        finetune: train the backbone as well.
    """

    def __init__(self, reprogrammer, backbone, head, norm="backbone", finetune=False):
        super().__init__()
        if norm == "backbone":
            norm = (backbone.mean, backbone.std)
        self.mean, self.std = (0.0, 0.5) if norm == "none" else norm
        self.reprogrammer, self.backbone, self.head = reprogrammer, backbone, head
        self.finetune = finetune
        backbone.requires_grad_(finetune)
        if head.reads != "source_logits":
            backbone.source_head.requires_grad_(False)
        self.train(self.training)

    def train(self, mode=True):
        """Set the mode; a frozen backbone stays in eval mode."""
        super().train(mode)
        if not self.finetune:
            self.backbone.eval()
        return self

    def normalise(self, x):
        """(B, 1, T, F) log-mel -> (B, 1, T, F), what the reprogrammer gets."""
        return (x - self.mean) / (2 * self.std)

    def forward(self, x):
        """(B, 1, T, F) un-normalised log-mel -> logits (B, K)."""
        return self.head(self.backbone(self.reprogrammer(self.normalise(x))))

    @property
    def is_probe(self):
        """Whether the head is all that learns, so that what it reads can be computed once for each clip."""
        return not self.finetune and not any(p.requires_grad for p in self.reprogrammer.parameters())

    @torch.no_grad()
    def read(self, x):
        """What the head reads, (B, D) or (B, S), for (B, 1, T, F) un-normalised log-mels."""
        return getattr(self.backbone(self.reprogrammer(self.normalise(x))), self.head.reads)

    def trainable_parameters(self):
        """The parameters that learn, as a list."""
        return [p for p in self.parameters() if p.requires_grad]

    def learned_state(self):
        """Tensors that training changes (buffers such as BatchNorm's included): kilobytes unless fine-tuned."""
        kept = ("reprogrammer.", "head.") + (("backbone.",) if self.finetune else ())
        return {name: tensor for name, tensor in self.state_dict().items() if name.startswith(kept)}

    def load_learned(self, state):
        """Put back what `learned_state` gave; strict.

        Raises:
            ValueError: keys are missing or unexpected; they are named.
        """
        if differing := sorted(self.learned_state().keys() ^ state.keys()):
            raise ValueError(f"checkpoint of another model: {', '.join(differing)} on one side only")
        self.load_state_dict(state, strict=False)  # the frozen rest is not in it; the line above made sure of the others


class Probe(nn.Module):
    """The head alone, on what `Reprogrammed.read` gave: (B, D) or (B, S) to logits (B, K)."""

    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, read):
        """What the head reads -> logits (B, K)."""
        return self.head(backbones.Output(**{"embedding": None, "source_logits": None, self.head.reads: read}))


def assemble(classes, norm, reprogrammer, backbone, head):
    """Build a classifier from plain values, which a checkpoint stores so that it can be built again.

    Args:
        classes: list of K names.
        norm: "backbone", "none", or [mean, std].
        reprogrammer, head: {"name": ..., its options}.
        backbone: {"dims", "mean", "std", "file" (None: random weights drawn with "seed"), "seed", "finetune"}.

    Raises:
        ValueError: an unknown name, keyword or value, or weights that do not fit.
    """
    if isinstance(norm, str) and norm not in NORMS:
        raise ValueError(unknown("input norm", norm, NORMS))
    dims = backbone["dims"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(backbone["seed"])
        source = backbones.build("ast", mean=backbone["mean"], std=backbone["std"], **dims)
    if backbone["file"] is not None:
        backbones.weights.load(source, backbone["file"])
    return Reprogrammed(
        reprogrammers.build(frames=dims["frames"], bins=dims["mels"], **reprogrammer), source,
        heads.build(n_classes=len(classes), embed_dim=source.embed_dim, n_source=source.n_source, **head),
        norm=norm, finetune=backbone["finetune"],
    )  # fmt: skip


@torch.no_grad()
def probabilities(model, batches, device):
    """Sigmoid outputs of `model` over an iterable of Batch, in float32: array (N, K); the mode is put back afterwards."""
    mode = model.training
    model.eval()
    try:
        return np.concatenate([model(batch.to(device).features).sigmoid().cpu().numpy() for batch in batches])
    finally:
        model.train(mode)
