"""The reprogrammed classifier: log-mel -> normalisation -> reprogrammer -> frozen backbone -> head.

Freeze policy: the reprogrammer, the adapter and the head are trained. The backbone is not: its
parameters need no gradient, and it stays in eval mode; gradients only pass through it. With
`finetune` the backbone is trained too, except for its source head if the classifier's head does not
use it.
"""

import copy
from collections.abc import Collection, Iterable, Sequence
from itertools import chain

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from . import adapters, backbones, heads, reprogrammers
from .model_spec import NORMS
from .registry import resolve, unknown


class Reprogrammed(nn.Module):
    """Classifier of un-normalised log-mels: (B, 1, T, F) -> logits (B, K).

    Args:
        reprogrammer, backbone, head: modules of these packages.
        norm: normalisation (x - mean) / (2 std) before the reprogrammer: by the statistics of the
            "backbone", by a pair (mean, std) of numbers or of lists with a number per band, or
            "none" (as in the authors' code).
        finetune: train the backbone as well.
        adapter: module of that package, attached to `backbone`; None for none.

    Attributes:
        bf16: compute everything before the head under bfloat16 autocast; false at first.
    """

    def __init__(
        self,
        reprogrammer: nn.Module,
        backbone: nn.Module,
        head: nn.Module,
        norm: str | Sequence[float] | Sequence[list[float]] = "backbone",
        finetune: bool = False,
        adapter: nn.Module | None = None,
    ):
        super().__init__()
        if norm == "backbone":
            norm = (backbone.mean, backbone.std)
        elif norm == "none":
            norm = (0.0, 0.5)
        self.norm = norm
        mean, std = norm
        if not np.min(std) > 0:
            raise ValueError(
                f"input norm: a standard deviation of {np.min(std)}, expected one above 0"
            )
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32), persistent=False)
        self.reprogrammer = reprogrammer
        self.backbone = backbone
        self.head = head
        self.adapter = adapter
        self.finetune = finetune
        self.bf16 = False
        backbone.requires_grad_(finetune)
        if backbone.n_source and head.input_key != "source_logits":
            backbone.source_head.requires_grad_(False)
        if head.input_key == "tokens":
            backbone.return_tokens()
        self.train(self.training)

    def train(self, mode: bool = True) -> "Reprogrammed":
        """Set the mode; a frozen backbone stays in eval mode, except for patchout."""
        super().train(mode)
        if not self.finetune:
            self.backbone.eval()
            patchout = getattr(self.backbone, "patchout", None)
            if patchout is not None:
                patchout.train(mode)
        return self

    def normalise(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise a log-mel (B, 1, T, F) for the reprogrammer."""
        return (x - self.mean) / (2 * self.std)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, T, F) un-normalised log-mel -> logits (B, K)."""
        return self.head(self.encode(x))

    def encode(self, x: torch.Tensor) -> backbones.Output:
        """Compute the backbone's float32 output for (B, 1, T, F) un-normalised log-mels."""
        if not self.bf16:
            return self.backbone(self.reprogrammer(self.normalise(x)))
        with torch.autocast(x.device.type, torch.bfloat16):
            output = self.backbone(self.reprogrammer(self.normalise(x)))
        return backbones.Output(*(None if value is None else value.float() for value in output))

    @property
    def segments(self) -> list[tuple[int, int]]:
        """Frames of the segments that the head weights, as (first, last + 1); empty for none."""
        if not hasattr(self.head, "attention_weights"):
            return []
        return getattr(self.backbone, "segments", [])

    def attention(self, output: backbones.Output) -> torch.Tensor:
        """Compute the weights of each class over S `segments`, with the sum 1: (B, K, S).

        Those of patches, whose last dimension is time, are added up over frequency.
        """
        weights = self.head.attention_weights(output)
        return weights.unflatten(2, (-1, len(self.segments))).sum(dim=2)

    @property
    def head_only(self) -> bool:
        """True if only the head is trained, so that its input can be computed once per clip."""
        if self.finetune or self.adapter is not None:
            return False
        if any(p.requires_grad for p in self.reprogrammer.parameters()):
            return False
        norms = [m for m in self.reprogrammer.modules() if isinstance(m, nn.BatchNorm2d)]
        return not any(norm.training for norm in norms)  # in training they update statistics

    @torch.no_grad()
    def head_input(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the head's input, for (B, 1, T, F) un-normalised log-mels.

        It is a field of the backbone's Output: (B, D), (B, S) or (B, N, D).
        """
        return getattr(self.encode(x), self.head.input_key)

    def trainable_parameters(self) -> list[nn.Parameter]:
        """List the parameters that are trained."""
        return [p for p in self.parameters() if p.requires_grad]

    def copy_with_shared_backbone(self) -> "Reprogrammed":
        """Return a copy that is trained separately but shares the frozen backbone.

        With an adapter only the backbone's tensors are shared, since its hooks belong to one copy.
        """
        shared = [self.backbone]
        if self.adapter is not None:
            shared = [*self.backbone.parameters(), *self.backbone.buffers()]
        if self.finetune:
            shared = []
        return copy.deepcopy(self, {id(part): part for part in shared})

    def trainable_state_dict(self) -> dict[str, torch.Tensor]:
        """Return the tensors that training changes, buffers such as BatchNorm's included.

        These are kilobytes unless the backbone is fine-tuned.
        """
        state = self.state_dict()
        if self.finetune:
            return state
        return {name: state[name] for name in state if not name.startswith("backbone.")}

    def load_trainable_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Load a `trainable_state_dict`.

        Raises:
            ValueError: keys are missing or unexpected.
        """
        differing = sorted(self.trainable_state_dict().keys() ^ state.keys())
        if differing:
            raise ValueError(
                f"checkpoint of another model: {', '.join(differing)} on one side only"
            )
        self.load_state_dict(state, strict=False)  # only frozen tensors are missing


class HeadOnlyModel(nn.Module):
    """Head of a Reprogrammed, trained on cached outputs of `Reprogrammed.head_input`."""

    def __init__(self, model: Reprogrammed):
        super().__init__()
        self.model = model
        self.head = model.head

    def forward(self, head_input: torch.Tensor) -> torch.Tensor:
        """(B, D), (B, S) or (B, N, D), the head's input -> logits (B, K)."""
        empty = backbones.Output(embedding=None, source_logits=None)
        return self.head(empty._replace(**{self.head.input_key: head_input}))

    def trainable_parameters(self) -> list[nn.Parameter]:
        """List the head's parameters that are trained."""
        return [p for p in self.head.parameters() if p.requires_grad]

    def copy_with_shared_backbone(self) -> "HeadOnlyModel":
        """Return a copy with a separate head."""
        return HeadOnlyModel(self.model.copy_with_shared_backbone())

    def trainable_state_dict(self) -> dict[str, torch.Tensor]:
        """Return the trainable state of the whole model."""
        return self.model.trainable_state_dict()

    def load_trainable_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Load a `trainable_state_dict`."""
        self.model.load_trainable_state_dict(state)


def build_model(
    classes: list[str],
    norm: str | list[float] | list[list[float]],
    reprogrammer: dict,
    backbone: dict,
    head: dict,
    adapter: dict | None = None,
    allow: Collection[str] = (),
) -> Reprogrammed:
    """Build a classifier from the plain values that a checkpoint stores.

    On a CPU its backbone uses the faster kernels of `backbones.cpu_kernels`.

    Args:
        classes: names of the K classes.
        norm: "backbone", "none", or [mean, std], see `Reprogrammed`.
        reprogrammer, head: {"name": ..., and its options}.
        backbone: {"name": ..., "options": keywords of its constructor, "file": its weights, or
            None for random ones drawn with "seed", "finetune": whether it is trained}.
        adapter: as the reprogrammer; None for none.
        allow: names of classes outside the package that may be built, see `registry.resolve`.

    Raises:
        ValueError: an unknown name, keyword or value, or weights that do not match.
    """
    if isinstance(norm, str) and norm not in NORMS:
        raise ValueError(unknown("input norm", norm, NORMS))
    options = backbone["options"]
    reprogrammer = resolve("reprogrammer", reprogrammer, allow, given=("frames", "bins"))
    sizes = ("n_classes", "embed_dim", "n_source", "token_dim", "n_blocks")
    head = resolve("head", head, allow, given=sizes)
    if adapter is not None:
        adapter = resolve("adapter", adapter, allow, given=("backbone",))
    network = resolve("backbone", options | {"name": backbone["name"]}, allow)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(backbone["seed"])
        source = backbones.build(**network)
    if backbone["file"] is not None:
        for part in getattr(source, "pretrained_modules", [source]):
            backbones.weights.load(part, backbone["file"])
    backbones.cpu_kernels.enable(source)
    reprogrammer = reprogrammers.build(
        frames=options["frames"], bins=options["mels"], **reprogrammer
    )
    head = heads.build(
        n_classes=len(classes),
        embed_dim=source.embed_dim,
        n_source=source.n_source,
        token_dim=getattr(source, "token_dim", None),
        n_blocks=getattr(source, "n_blocks", None),
        **head,
    )
    if adapter is not None:  # the last, so that a seed gives the same head with and without it
        adapter = adapters.build(backbone=source, **adapter)
    return Reprogrammed(
        reprogrammer, source, head, norm=norm, finetune=backbone["finetune"], adapter=adapter
    )


@torch.no_grad()
def multiply_accumulates(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Count the multiply-accumulates of one forward pass of a feature of `shape` (C, T, F).

    Only matrix products, attention and convolutions count.
    """
    tensor = next(chain(model.parameters(), model.buffers()), None)
    device = "cpu" if tensor is None else tensor.device
    mode = model.training
    # CPU kernels that torch's counter lacks.
    formulas = backbones.cpu_kernels.flop_formulas()
    formulas[torch.ops.aten._scaled_dot_product_flash_attention_for_cpu] = _sdpa_flops
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        model.eval()(torch.zeros(1, *shape, device=device))
    model.train(mode)
    return counter.get_total_flops() // 2


def _sdpa_flops(q, k, v, *args, **kwargs):
    return sdpa_flop_count(q, k, v)


@torch.no_grad()
def probabilities(model: nn.Module, batches: Iterable, device: torch.device | str) -> np.ndarray:
    """Compute the sigmoid outputs of `model` for Batches: float32 array (N, K)."""
    mode = model.training
    model.eval()
    try:
        outputs = [model(batch.to(device).features).sigmoid().cpu().numpy() for batch in batches]
        return np.concatenate(outputs)
    finally:
        model.train(mode)
