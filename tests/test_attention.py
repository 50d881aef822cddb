"""The attention kernels for training on CPU give what plain attention in float32 gives, forwards and backwards."""

import pytest
import torch

from ast_repr.backbones import attention


def exact(q, k, v):
    return (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1) @ v


@pytest.mark.parametrize("block_bytes", [1, 6 << 20])
def test_values_and_gradients_are_those_of_float32_to_bfloat16s_precision(block_bytes, monkeypatch):
    monkeypatch.setattr(attention, "BLOCK_BYTES", block_bytes)
    generator = torch.Generator().manual_seed(0)
    narrow = [
        torch.randn(3, 5, 50, 16, generator=generator).bfloat16().requires_grad_() for _ in range(3)
    ]
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


def test_float32_is_exact_with_queries_fewer_than_keys():
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(2, 3, n, 16, generator=generator).requires_grad_() for n in (7, 50, 50)]
    out, expected = attention.attend(*inputs), exact(*inputs)
    assert (
        type(out.grad_fn).__name__ == "ViewBackward0"
    )  # of the kernel's flattened heads: not PyTorch's
    torch.testing.assert_close(out, expected, atol=1e-6, rtol=1e-5)
    weight = torch.randn(2, 3, 7, 16, generator=generator)
    for found, sought in zip(
        torch.autograd.grad((out * weight).sum(), inputs),
        torch.autograd.grad((expected * weight).sum(), inputs),
    ):
        torch.testing.assert_close(found, sought, atol=1e-6, rtol=1e-5)


def test_inference_takes_the_fused_kernel(monkeypatch):
    for kernel in (attention._Bfloat16, attention._Float32):
        monkeypatch.setattr(kernel, "apply", None)
    q = torch.randn(1, 2, 8, 4)
    torch.testing.assert_close(attention.attend(q, q, q), exact(q, q, q))
    with torch.no_grad():
        for dtype in (torch.float32, torch.bfloat16):
            attention.attend(*[q.to(dtype).requires_grad_()] * 3)
