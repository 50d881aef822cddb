"""The CPU kernels equal PyTorch's, forward and backward, whatever is done to the model."""

import copy

import pytest
import torch
from helpers import functions_in
from torch import nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from ast_repr.backbones import cpu_kernels

LINEAR = "_FrozenLinearBackward"


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def enabled(tiny_ast):
    """(a plain AST, a copy that uses the kernels), both frozen."""
    plain = tiny_ast().requires_grad_(False)
    fast = copy.deepcopy(plain)
    cpu_kernels.enable(fast)
    return plain, fast


@pytest.fixture
def attention(enabled):
    """The attention of a block as `enable` leaves it."""
    return enabled[1].blocks[0].attn


@pytest.fixture
def layer():
    """A frozen linear layer as `enable` leaves it."""
    layer = nn.Linear(24, 7).requires_grad_(False)
    layer.__class__ = cpu_kernels.CpuLinear
    return layer


def test_a_frozen_linear_layer_gives_the_plain_values_and_gradient(layer):
    x = random(2, 5, 24).requires_grad_()
    out = layer(x)
    expected = functional.linear(x, layer.weight, layer.bias)
    assert LINEAR in functions_in(out.grad_fn)
    torch.testing.assert_close(out, expected)
    weight = random(2, 5, 7, seed=1)
    (gradient,) = torch.autograd.grad(out, x, weight)
    (reference,) = torch.autograd.grad(expected, x, weight)
    torch.testing.assert_close(gradient, reference)


def test_strides_do_not_matter():
    x = random(5, 24)
    wide = random(24, 7).t()
    narrow = random(7, 24)[:, :5]
    torch.testing.assert_close(cpu_kernels.onednn_linear(x, wide), x @ wide.t())
    torch.testing.assert_close(cpu_kernels.onednn_linear(x.t(), narrow), x.t() @ narrow.t())


def test_a_trained_weight_gets_its_gradient(layer):
    layer.requires_grad_()
    out = layer(random(2, 5, 24).requires_grad_())
    assert LINEAR not in functions_in(out.grad_fn)
    out.sum().backward()
    assert layer.weight.grad.abs().sum() > 0


def test_other_precisions_are_left_alone(layer):
    x = random(2, 5, 24)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert layer.double()(x.double()).dtype == torch.float64


@pytest.mark.parametrize(
    "bf16, tokens, gradient, fused",
    [
        (False, 9, True, True),
        (True, 9, True, False),
        (True, 9, False, True),
        (True, 601, True, True),
    ],
)
def test_attention_is_plain_products_where_its_gradient_is_quicker(
    attention, bf16, tokens, gradient, fused
):
    x = random(1, tokens, attention.attn_dim).requires_grad_(gradient)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=bf16)
    with autocast, profile(activities=[ProfilerActivity.CPU], acc_events=True) as used:
        attention(x)
    is_fused = any("scaled_dot_product" in event.key for event in used.key_averages())
    assert is_fused == fused


@pytest.mark.parametrize("bf16", [False, True])
def test_the_network_computes_the_same_with_and_without_them(enabled, bf16):
    outputs = []
    for network in enabled:
        x = random(2, 1, 64, 32).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = network(x).source_logits.float()
        (gradient,) = torch.autograd.grad(logits.sin().sum(), x)
        outputs.append((logits, gradient, functions_in(logits.grad_fn)))
    (plain, plain_gradient, plain_functions), (fast, fast_gradient, fast_functions) = outputs
    assert LINEAR not in plain_functions
    assert (LINEAR in fast_functions) == (not bf16)
    tolerance = 2e-2 if bf16 else 1e-5
    torch.testing.assert_close(fast, plain, rtol=tolerance, atol=tolerance)
    error = (fast_gradient - plain_gradient).norm() / plain_gradient.norm()
    assert error < tolerance


def test_a_fine_tuned_network_gets_the_plain_gradients(enabled):
    gradients = []
    for network in enabled:
        network.train().requires_grad_()
        network(random(2, 1, 64, 32)).source_logits.sin().sum().backward()
        gradients.append({name: p.grad for name, p in network.named_parameters()})
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-5)


def test_copies_and_state_dicts_are_those_of_the_plain_network(enabled):
    plain, fast = enabled
    assert fast.state_dict().keys() == plain.state_dict().keys()
    other = copy.deepcopy(fast)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(2)
    x = random(2, 1, 64, 32)
    torch.testing.assert_close(fast(x).source_logits, plain(x).source_logits)
    assert not torch.allclose(other(x).source_logits, plain(x).source_logits)
    assert isinstance(other.blocks[0].attn.qkv, cpu_kernels.CpuLinear)


@pytest.mark.slow
@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_graph_is_that_of_the_plain_network(enabled, strict):
    graphs = []
    for network in enabled:
        program = torch.export.export(network, (random(2, 1, 64, 32),), strict=strict)
        graphs.append([node.target for node in program.graph.nodes if node.op == "call_function"])
    assert graphs[1] == graphs[0]


def test_enabling_twice_and_without_an_ast_changes_nothing(enabled):
    _, fast = enabled
    before = [type(module) for module in fast.modules()]
    cpu_kernels.enable(fast)
    assert [type(module) for module in fast.modules()] == before
    other = nn.Sequential(nn.Linear(2, 2))
    cpu_kernels.enable(other)
    assert type(other[0]) is nn.Linear


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_they_change_nothing(enabled):
    outputs = []
    for network in enabled:
        x = random(2, 1, 64, 32).cuda().requires_grad_()
        logits = network.cuda()(x).source_logits
        assert LINEAR not in functions_in(logits.grad_fn)
        outputs.append(logits)
    assert torch.equal(*outputs)
