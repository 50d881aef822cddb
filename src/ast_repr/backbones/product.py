"""Float32 matrix products on CPU by oneDNN, as PyTorch does those of bfloat16.

PyTorch gives float32 products to its BLAS. Where that is MKL and the CPU is AMD's, it leaves half of AVX-512's width unused;
oneDNN takes all of it, for twice the speed, and elsewhere is as quick. Results differ by the order of the sums alone.
"""

import torch
from torch.nn import functional


def linear(x, weight, bias):
    """x weight' + bias for x (..., K), weight (M, K), bias (M,) -> (..., M), as torch.nn.functional.linear."""
    if quick(x) and not weight.requires_grad:
        return _FrozenLinear.apply(x, weight, bias)
    return functional.linear(x, weight, bias)


def quick(x):
    """Whether `times_transposed` is the quick way for products with x: float32 on CPU, outside of autocast and of exported graphs."""
    if torch.compiler.is_compiling():  # asked first: what comes after cannot be traced
        return False
    plain = (
        x.device.type == "cpu" and x.dtype == torch.float32 and torch.backends.mkldnn.is_available()
    )
    return plain and not torch.is_autocast_enabled("cpu")


def times_transposed(a, b, bias=None):
    """a b' + bias for a (..., K), b (M, K) of any strides -> (..., M); b' (K, M) transposed costs nothing, a transposed a copy."""
    return torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")


class _FrozenLinear(torch.autograd.Function):
    """`linear` with a gradient for x alone."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(weight)
        return times_transposed(x, weight, bias)

    @staticmethod
    def backward(ctx, grad):
        return times_transposed(grad, ctx.saved_tensors[0].t()), None, None
