"""The reprogrammed classifier: log-mel -> normalisation -> reprogrammer -> frozen backbone -> head.

Freeze policy, stated once: the reprogrammer and the head learn. The backbone does not: its
parameters need no gradient, and it stays in eval mode whatever mode the classifier is put in;
gradients only pass through it to the reprogrammer. With `finetune` the backbone learns too, except
for its source head where the head does not read it.
Also here is what a classifier is asked: probabilities, what it costs.
"""

import copy
import math
from itertools import chain

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from . import backbones, heads, reprogrammers
from .rooms import resolve, unknown

NORMS = ("backbone", "none", "corpus")


class Reprogrammed(nn.Module):
    """Un-normalised log-mels (B, 1, T, F) to logits (B, K).

    Args:
        reprogrammer, backbone, head: from their rooms.
        norm: what happens to the input before the reprogrammer: "backbone" applies (x - mean) / (2
            std) with the backbone's own statistics, a pair (mean, std) does so with those, "none"
            leaves it (as the authors' code did).
        finetune: train the backbone as well.
    """

    def __init__(self, reprogrammer, backbone, head, norm="backbone", finetune=False):
        super().__init__()
        if norm == "backbone":
            norm = (backbone.mean, backbone.std)
        self.mean, self.std = (0.0, 0.5) if norm == "none" else norm
        if not self.std > 0:
            raise ValueError(f"input norm: a deviation of {self.std}; expected one above 0")
        self.reprogrammer, self.backbone, self.head = reprogrammer, backbone, head
        self.finetune = finetune
        backbone.requires_grad_(finetune)
        if backbone.n_source and head.reads != "source_logits":
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
        """Whether nothing before the head changes in the present mode, so that what it reads can be computed once for each clip."""
        learns = any(p.requires_grad for p in self.reprogrammer.parameters())
        counts = any(
            isinstance(m, nn.BatchNorm2d) and m.training for m in self.reprogrammer.modules()
        )
        return not (self.finetune or learns or counts)

    @torch.no_grad()
    def read(self, x):
        """What the head reads, (B, D) or (B, S), for (B, 1, T, F) un-normalised log-mels."""
        return getattr(self.backbone(self.reprogrammer(self.normalise(x))), self.head.reads)

    def trainable_parameters(self):
        """The parameters that learn, as a list."""
        return [p for p in self.parameters() if p.requires_grad]

    def twin(self):
        """A copy that learns on its own but shares the frozen backbone."""
        shared = {} if self.finetune else {id(self.backbone): self.backbone}
        return copy.deepcopy(self, shared)

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
            raise ValueError(
                f"checkpoint of another model: {', '.join(differing)} on one side only"
            )
        self.load_state_dict(
            state, strict=False
        )  # the frozen rest is not in it; the line above made sure of the others


class Probe(nn.Module):
    """A Reprogrammed of which the head alone learns, on what its `read` gave: (B, D) or (B, S) to logits (B, K)."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.head, self.learned_state, self.load_learned = (
            model.head,
            model.learned_state,
            model.load_learned,
        )

    def forward(self, read):
        """What the head reads -> logits (B, K)."""
        return self.head(
            backbones.Output(**{"embedding": None, "source_logits": None, self.head.reads: read})
        )

    def trainable_parameters(self):
        """The head's parameters that learn, as a list."""
        return [p for p in self.head.parameters() if p.requires_grad]

    def twin(self):
        """A copy with a head of its own."""
        return Probe(self.model.twin())


def assemble(classes, norm, reprogrammer, backbone, head, allow=()):
    """Build a classifier from plain values, which a checkpoint stores to build it again.

    Args:
        classes: list of K names.
        norm: "backbone", "none", or [mean, std].
        reprogrammer, head: {"name": ..., its options}.
        backbone: {"name": of its class, "options": of its constructor, "seed", "finetune", "file"};
            without a file its weights are random, drawn with the seed.
        allow: names of classes outside of the package that may be built, see `rooms.resolve`.

    Raises:
        ValueError: an unknown name, keyword or value, or weights that do not fit.
    """
    if isinstance(norm, str) and norm not in NORMS:
        raise ValueError(unknown("input norm", norm, NORMS))
    options = backbone["options"]
    reprogrammer = resolve("reprogrammer", reprogrammer, allow, given=("frames", "bins"))
    head = resolve("head", head, allow, given=("n_classes", "embed_dim", "n_source"))
    network = resolve("backbone", options | {"name": backbone["name"]}, allow)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(backbone["seed"])
        source = backbones.build(**network)
    if backbone["file"] is not None:
        backbones.weights.load(source, backbone["file"])
    return Reprogrammed(
        reprogrammers.build(frames=options["frames"], bins=options["mels"], **reprogrammer),
        source,
        heads.build(
            n_classes=len(classes), embed_dim=source.embed_dim, n_source=source.n_source, **head
        ),
        norm=norm,
        finetune=backbone["finetune"],
    )


@torch.no_grad()
def multiply_accumulates(model, shape):
    """Multiply-accumulates of the matrix products, attention and convolutions in one forward pass of a feature of `shape` (C, T, F)."""
    mode, device = (
        model.training,
        next((tensor.device for tensor in chain(model.parameters(), model.buffers())), "cpu"),
    )
    on_cpu = {  # kernels that the counter does not know by itself
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: (
            sdpa_flop_count(q, k, v)
        ),
        torch.ops.mkldnn._linear_pointwise: lambda x, weight, *_, **__: (
            2 * math.prod(x) * weight[0]
        ),
    }
    with FlopCounterMode(display=False, custom_mapping=on_cpu) as counter:
        model.eval()(torch.zeros(1, *shape, device=device))
    model.train(mode)
    return counter.get_total_flops() // 2


@torch.no_grad()
def probabilities(model, batches, device):
    """Sigmoid outputs of `model` over an iterable of Batch, in float32: array (N, K); the mode is put back afterwards."""
    mode = model.training
    model.eval()
    try:
        return np.concatenate(
            [model(batch.to(device).features).sigmoid().cpu().numpy() for batch in batches]
        )
    finally:
        model.train(mode)
