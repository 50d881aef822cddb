"""The blocked bfloat16 attention gives what plain attention in float32 gives, forwards and backwards."""

import pytest
import torch

from ast_repr.backbones import attention


def exact(q, k, v):
    return (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1) @ v


@pytest.mark.parametrize("block_bytes", [1, 6 << 20])
def test_values_and_gradients_are_those_of_float32_to_bfloat16s_precision(block_bytes, monkeypatch):
    monkeypatch.setattr(attention, "BLOCK_BYTES", block_bytes)
    generator = torch.Generator().manual_seed(0)
    narrow = [torch.randn(3, 5, 50, 16, generator=generator).bfloat16().requires_grad_() for _ in range(3)]
    weight = torch.randn(3, 5, 50, 16, generator=generator)
    wide = [t.detach().float().requires_grad_() for t in narrow]
    out, expected = attention.attend(*narrow), exact(*wide)
    assert type(out.grad_fn).__name__ != "ScaledDotProductFlashAttentionForCpuBackward0"
    (out.float() * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(out.float(), expected, atol=0.02, rtol=0.02)
    for found, sought in zip(narrow, wide):
        error = (found.grad.float() - sought.grad).norm() / sought.grad.norm()
        assert error < 0.01


def test_float32_and_inference_take_the_fused_kernel(monkeypatch):
    monkeypatch.setattr(attention._Blocked, "apply", None)
    q = torch.randn(1, 2, 8, 4)
    torch.testing.assert_close(attention.attend(q, q, q), exact(q, q, q))
    with torch.no_grad():
        attention.attend(*[q.bfloat16().requires_grad_()] * 3)
