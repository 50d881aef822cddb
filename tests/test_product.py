"""Float32 products by oneDNN are those of PyTorch, with the gradients that a frozen weight leaves to be computed."""

import pytest
import torch
from torch.nn import functional

from ast_repr.backbones import product

MINE = "_FrozenLinearBackward"


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(*shape, generator=generator) for shape in ((2, 5, 24), (7, 24), (7,))
    )
    return x.requires_grad_(), weight, bias


def test_values_and_gradient(tensors):
    x, weight, bias = tensors
    found, expected = product.linear(x, weight, bias), functional.linear(x, weight, bias)
    assert type(found.grad_fn).__name__ == MINE
    torch.testing.assert_close(found, expected)
    grad = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(*(torch.autograd.grad(out, x, grad)[0] for out in (found, expected)))


def test_strides_do_not_matter(tensors):
    x, weight, _ = (t.detach() for t in tensors)
    wide = torch.randn(24, 7).t()
    torch.testing.assert_close(product.times_transposed(x, wide), x @ wide.t())
    torch.testing.assert_close(
        product.times_transposed(x[0].t(), weight[:, :5]), x[0].t() @ weight[:, :5].t()
    )


def test_a_weight_that_learns_gets_its_gradient(tensors):
    x, weight, bias = tensors
    out = product.linear(x, weight.requires_grad_(), bias)
    assert type(out.grad_fn).__name__ != MINE
    assert torch.autograd.grad(out.sum(), weight)[0].shape == weight.shape


def test_autocast_stays_autocast(tensors):
    with torch.autocast("cpu", torch.bfloat16):
        assert product.linear(*tensors).dtype == torch.bfloat16
    assert product.linear(*(t.double() for t in tensors)).dtype == torch.float64
