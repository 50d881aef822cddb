"""Faster kernels for an AST on a CPU, in float32 and bfloat16; optional.

`enable(model)` is the only entry. The network itself is plain timm blocks (audio_transformer.py)
and computes the same without this file, which holds every private operation of PyTorch that the
project uses.

What and why
    Linear layers in float32: PyTorch gives these products to its BLAS. If that is MKL and the CPU
    is AMD's, half of AVX-512's width stays unused; oneDNN uses all of it.
    Attention in training: on the AMD CPU that it was written for, the gradient of PyTorch's fused
    kernel runs far below the speed of the matrix products that it consists of. Here attention is
    computed by plain products in blocks of heads whose weights stay in cache, and the weights are
    computed again in the backward pass: memory stays linear in the number of tokens.
    Results differ from PyTorch's by rounding only.

What it brings
    The rows "without ..." of tests/bench/step.py, which egs/openmic/BENCHMARKS.md shows: there, on
    an AMD EPYC, a training step of AST-base in float32 took 1.90 times as long without the linear
    layers, and 1.13 times (bfloat16: 1.22 times) without the attention.
    Not everywhere: on an Intel Xeon with AMX (torch 2.11, one thread, the attention of one clip
    alone) PyTorch's attention took 0.17 s and this one 0.28 s, in bfloat16 0.10 s and 0.12 s; the
    linear layers were within a fifth of each other.

When to delete it
    When those rows are close to 1 with the oldest supported PyTorch. Remove this file, its calls in
    classifier.py and pretrain.py, and the rows of the benchmark; nothing else depends on it, and
    stored models are not affected.
"""

import math
from collections.abc import Callable

import torch
from timm.models.vision_transformer import Attention
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from .audio_transformer import AudioTransformer

BLOCK_BYTES = 6 << 20  # attention weights held at a time: about the share of a last-level cache


def enable(model: nn.Module) -> None:
    """Make the blocks of each AST in `model` use the kernels below whenever these apply.

    They apply on a CPU only, and neither in compiled and exported graphs nor, for linear layers, to
    trained weights or under autocast; everything else is left to PyTorch, call by call. Layers keep
    their parameters and names and change their class, as in torch's `fully_shard`: copies and state
    dicts are not affected.
    """
    for network in model.modules():
        if isinstance(network, AudioTransformer):
            for layer in network.blocks.modules():
                layer.__class__ = KERNELS.get(type(layer), type(layer))


def flop_formulas() -> dict[Callable, Callable]:
    """Return the formulas that torch's FlopCounterMode lacks for operations used here."""
    if not torch.backends.mkldnn.is_available():
        return {}
    return {torch.ops.mkldnn._linear_pointwise: _linear_flops}


def _linear_flops(x_shape, weight_shape, *args, out_shape=None, **kwargs) -> int:
    return 2 * math.prod(x_shape) * weight_shape[0]


class CpuLinear(nn.Linear):
    """Linear layer that oneDNN computes if its weight is frozen."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., K) -> (..., M)."""
        if self.weight.requires_grad or not onednn_applies(x):
            return super().forward(x)
        return _FrozenLinear.apply(x, self.weight, self.bias)


class CpuAttention(Attention):
    """Self-attention whose gradient is computed in blocks of heads."""

    def forward(
        self, x: torch.Tensor, attn_mask: torch.Tensor | None = None, is_causal: bool = False
    ) -> torch.Tensor:
        """(B, N, D) -> (B, N, D)."""
        if torch.compiler.is_compiling() or attn_mask is not None or is_causal:
            return super().forward(x, attn_mask, is_causal)
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(attend(q, k, v).transpose(1, 2).flatten(2))


KERNELS = {nn.Linear: CpuLinear, Attention: CpuAttention}


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Compute softmax(q k' / sqrt(d)) v: q (B, H, M, d), k and v (B, H, N, d) -> (B, H, M, d)."""
    trains = q.requires_grad and torch.is_grad_enabled()
    if trains and q.device.type == "cpu" and q.dtype == torch.bfloat16:
        kernel = _Bfloat16Attention
    elif trains and onednn_applies(q):
        kernel = _Float32Attention
    else:
        return functional.scaled_dot_product_attention(q, k, v)
    return kernel.apply(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)).view_as(q)


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
    """A linear layer with a gradient for its input alone."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(weight)
        return onednn_linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (weight,) = ctx.saved_tensors
        return onednn_linear(grad, weight.t()), None, None


class _Bfloat16Attention(torch.autograd.Function):
    """Attention of q (heads, M, d), k and v (heads, N, d), a block of heads at a time."""

    @staticmethod
    def forward(ctx, q, k, v):
        ctx.save_for_backward(q, k, v)
        out = torch.empty_like(q)
        for heads in _blocks_of_heads(q, k):
            torch.bmm(_attention_weights(q[heads], k[heads]), v[heads], out=out[heads])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        q, k, v = ctx.saved_tensors
        dq = torch.empty_like(q)
        dk = torch.empty_like(k)
        dv = torch.empty_like(v)
        for heads in _blocks_of_heads(q, k):
            weights = _attention_weights(q[heads], k[heads])
            torch.bmm(weights.transpose(1, 2), grad[heads], out=dv[heads])
            dweights = torch.bmm(grad[heads], v[heads].transpose(1, 2))
            dscores = torch._softmax_backward_data(dweights, weights, -1, weights.dtype)
            dscores *= q.shape[-1] ** -0.5
            torch.bmm(dscores, k[heads], out=dq[heads])
            torch.bmm(dscores.transpose(1, 2), q[heads], out=dk[heads])
        return dq, dk, dv


def _blocks_of_heads(q, k):
    """Slices of as many heads as the cache holds attention weights of, at least one per thread."""
    weights_bytes = q.shape[1] * k.shape[1] * q.element_size()
    size = max(torch.get_num_threads(), BLOCK_BYTES // weights_bytes)
    return [slice(start, start + size) for start in range(0, len(q), size)]


def _attention_weights(q, k):
    return torch.bmm(q * q.shape[-1] ** -0.5, k.transpose(1, 2)).softmax(-1)


class _Float32Attention(torch.autograd.Function):
    """The same head by head, since oneDNN's product takes no batch."""

    @staticmethod
    def forward(ctx, q, k, v):
        ctx.save_for_backward(q, k, v)
        scaled = q * q.shape[-1] ** -0.5
        out = torch.empty_like(q)
        for head in range(len(q)):
            weights = onednn_linear(scaled[head], k[head]).softmax(-1)
            out[head] = onednn_linear(weights, v[head].t())
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        q, k, v = ctx.saved_tensors
        scale = q.shape[-1] ** -0.5
        scaled = q * scale
        dq = torch.empty_like(q)
        dk = torch.empty_like(k)
        dv = torch.empty_like(v)
        for head in range(len(q)):
            weights = onednn_linear(scaled[head], k[head]).softmax(-1)
            dv[head] = onednn_linear(grad[head].t(), weights.t()).t()
            dweights = onednn_linear(grad[head], v[head])
            dscores = torch._softmax_backward_data(dweights, weights, -1, weights.dtype)
            torch.mul(onednn_linear(dscores, k[head].t()), scale, out=dq[head])
            dk[head] = onednn_linear(scaled[head].t(), dscores.t()).t()
        return dq, dk, dv
