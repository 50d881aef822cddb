"""Self-attention for AST's blocks: PyTorch's fused kernel, and quicker ones for training on CPU.

The fused kernel's gradient on CPU runs far below the speed of the matrix products that it is made of. `_Bfloat16` and `_Float32`
compute the same in blocks of heads whose attention weights stay in cache, with plain products, and compute the
weights again on the way back instead of keeping them: memory stays linear in the number of tokens.
"""

import torch
from timm.models.vision_transformer import Attention
from torch.nn import functional

from .product import linear, quick, times_transposed

BLOCK_BYTES = 6 << 20  # attention weights held at a time: about what a last-level cache keeps


class SelfAttention(Attention):
    """timm's multi-head attention with the same parameters; no mask, no dropout."""

    def forward(self, x, attn_mask=None, is_causal=False, queries=None):
        """(B, N, D) -> (B, N, D), or (B, queries, D): what only the first `queries` tokens find."""
        width = x.shape[-1]
        if queries is None:
            q, k, v = linear(x, self.qkv.weight, self.qkv.bias).chunk(3, dim=-1)
        else:
            (to_q, to_kv), (bias_q, bias_kv) = (
                t.split([width, 2 * width]) for t in (self.qkv.weight, self.qkv.bias)
            )
            q = linear(x[:, :queries], to_q, bias_q)
            k, v = linear(x, to_kv, bias_kv).chunk(2, dim=-1)
        q, k, v = (
            t.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2) for t in (q, k, v)
        )
        return linear(attend(q, k, v).transpose(1, 2).flatten(2), self.proj.weight, self.proj.bias)


def attend(q, k, v):
    """softmax(q k' / sqrt(d)) v for q (B, H, M, d), k and v (B, H, N, d) -> (B, H, M, d)."""
    if q.device.type == "cpu" and torch.is_grad_enabled() and q.requires_grad:
        kernel = _Bfloat16 if q.dtype == torch.bfloat16 else _Float32 if quick(q) else None
        if kernel:
            return kernel.apply(*(t.flatten(0, 1) for t in (q, k, v))).view_as(q)
    return functional.scaled_dot_product_attention(q, k, v)


class _Bfloat16(torch.autograd.Function):
    """Attention of q (heads, M, d), k and v (heads, N, d), a block of heads at a time."""

    @staticmethod
    def forward(ctx, q, k, v):
        ctx.save_for_backward(q, k, v)
        out = torch.empty_like(q)
        for rows in _blocks(q, k):
            torch.bmm(_weights(q[rows], k[rows]), v[rows], out=out[rows])
        return out

    @staticmethod
    def backward(ctx, grad):
        q, k, v = ctx.saved_tensors
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        for rows in _blocks(q, k):
            weights = _weights(q[rows], k[rows])
            torch.bmm(weights.transpose(1, 2), grad[rows], out=dv[rows])
            scores = torch._softmax_backward_data(
                torch.bmm(grad[rows], v[rows].transpose(1, 2)), weights, -1, weights.dtype
            )
            scores *= q.shape[-1] ** -0.5
            torch.bmm(scores, k[rows], out=dq[rows])
            torch.bmm(scores.transpose(1, 2), q[rows], out=dk[rows])
        return dq, dk, dv


def _blocks(q, k):
    heads = len(q)
    size = max(torch.get_num_threads(), BLOCK_BYTES // (q.shape[1] * k.shape[1] * q.element_size()))
    return [slice(start, start + size) for start in range(0, heads, size)]


def _weights(q, k):
    return torch.bmm(q * q.shape[-1] ** -0.5, k.transpose(1, 2)).softmax(-1)


class _Float32(torch.autograd.Function):
    """The same, head by head: oneDNN's product takes no batch."""

    @staticmethod
    def forward(ctx, q, k, v):
        ctx.save_for_backward(q, k, v)
        scale = q.shape[-1] ** -0.5
        return torch.stack(
            [
                times_transposed(times_transposed(a * scale, b).softmax(-1), c.t())
                for a, b, c in zip(q, k, v)
            ]
        )

    @staticmethod
    def backward(ctx, grad):
        q, k, v = ctx.saved_tensors
        scale = q.shape[-1] ** -0.5
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        for i, (a, b, c, g) in enumerate(zip(q * scale, k, v, grad)):
            weights = times_transposed(a, b).softmax(-1)
            dv[i] = times_transposed(g.t(), weights.t()).t()
            scores = torch._softmax_backward_data(
                times_transposed(g, c), weights, -1, weights.dtype
            )
            torch.mul(times_transposed(scores, b.t()), scale, out=dq[i])
            dk[i] = times_transposed(a.t(), scores.t()).t()
        return dq, dk, dv
