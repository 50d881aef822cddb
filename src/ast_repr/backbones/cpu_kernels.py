"""Faster layers for a frozen AST on a CPU; optional.

The network itself is plain timm blocks; this file holds every private operation of PyTorch that the
project uses. In float32, PyTorch gives linear layers to its BLAS: MKL leaves half of the width of
AVX-512 unused on AMD's CPUs, oneDNN uses all of it. On an AMD EPYC, a training step of AST-base
took 1.90 times as long without these kernels; on an Intel Xeon the two are within a fifth
(tests/bench/step.py). In bfloat16, the gradient of PyTorch's fused attention takes longer than
plain products: on that Xeon, the shipped AST's layer (514 tokens, 16 clips) took 133 ms forward and
backward, against 78; forward alone 21 against 31. Results differ by rounding only. Without a gain
in the oldest supported PyTorch, this file can be deleted; stored models are not affected.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from timm.layers import Attention, use_fused_attn
from torch import nn
from torch.autograd.function import once_differentiable

from .audio_transformer import AudioTransformer

FEW_TOKENS = 600  # plain products keep a matrix of tokens x tokens per head


def enable(model: nn.Module) -> None:
    """Make the blocks of each AST in `model` use the layers below.

    They differ on a CPU only, and not in compiled or exported graphs. Layers change their class, as
    in torch's `fully_shard`, and keep their parameters and names.
    """
    for network in model.modules():
        if isinstance(network, AudioTransformer):
            for layer in network.blocks.modules():
                if type(layer) is nn.Linear:
                    layer.__class__ = CpuLinear
                elif type(layer) is Attention:
                    layer.__class__ = CpuAttention


def flop_formulas() -> dict[Callable, Callable]:
    """Return the formulas that torch's FlopCounterMode lacks for operations used here."""
    if not torch.backends.mkldnn.is_available():
        return {}
    return {torch.ops.mkldnn._linear_pointwise: _linear_flops}


def _linear_flops(x_shape: torch.Size, weight_shape: torch.Size, *args: Any, **kwargs: Any) -> int:
    return 2 * math.prod(x_shape) * weight_shape[0]


class CpuLinear(nn.Linear):
    """Linear layer that oneDNN computes if its weight is frozen."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., K) -> (..., M)."""
        if self.weight.requires_grad or not onednn_applies(x):
            return super().forward(x)
        return _FrozenLinear.apply(x, self.weight, self.bias)


class CpuAttention(Attention):
    """Attention as plain products where that is quicker, see above, otherwise timm's choice."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """(B, N, D) -> (B, N, D)."""
        if not torch.compiler.is_compiling():
            is_bf16 = x.device.type == "cpu" and torch.is_autocast_enabled("cpu")
            has_gradient = x.requires_grad and torch.is_grad_enabled()
            is_plain = is_bf16 and has_gradient and x.shape[1] <= FEW_TOKENS
            self.fused_attn = use_fused_attn() and not is_plain
        return super().forward(x, *args, **kwargs)


def onednn_applies(x: torch.Tensor) -> bool:
    """True if products with x may go to oneDNN: float32 on a CPU, not compiled, no autocast."""
    if torch.compiler.is_compiling():  # first: the rest cannot be traced
        return False
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return False
    return torch.backends.mkldnn.is_available() and not torch.is_autocast_enabled("cpu")


def onednn_linear(
    a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Compute a b' + bias for a (..., K), b (M, K) of any strides -> (..., M).

    A transposed b costs nothing, a transposed a is copied.
    """
    return torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")


class _FrozenLinear(torch.autograd.Function):
    """A linear layer with a gradient for its input only."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(weight)
        return onednn_linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return onednn_linear(grad, weight.t()), None, None
