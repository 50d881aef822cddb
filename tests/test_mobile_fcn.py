"""MobileFCN layer by layer, its head's dropout, and sizes of the input."""

import pytest
import torch

from ast_repr import backbones, heads

# Channels, frames and bands after each layer, for the published input, and parameters of each.
MAPS = [
    (64, 364, 48),
    (128, 121, 24),
    (128, 60, 12),
    (128, 30, 4),
    (128, 15, 1),
    (256, 15, 1),
    (256, 15, 1),
    (256, 15, 1),
]
PARAMETERS = [704, 73_984, 18_048, 18_048, 18_048, 34_688, 68_864, 68_864]


def count(modules):
    return sum(p.numel() for module in modules for p in module.parameters())


def layers_of(network):
    """Split the network after each pooling and its ReLU."""
    layers = [[]]
    for module in network.layers:
        layers[-1].append(module)
        if isinstance(module, torch.nn.ReLU) and isinstance(layers[-1][-2], torch.nn.MaxPool2d):
            layers.append([])
    return layers[:-1]


def test_the_published_network_layer_by_layer():
    network = backbones.build("mobile_fcn").eval()
    head = heads.build("embedding", 50, embed_dim=256, norm=False, dropout=0.5)
    assert count([network, head]) == 314_098
    layers = layers_of(network)
    assert [count(layer) for layer in layers] == PARAMETERS
    x = torch.randn(1, 1, 1457, 96)
    maps = []
    with torch.no_grad():
        output = network(x)
        for layer in layers:
            for module in layer:
                x = module(x)
            maps.append(tuple(x.shape[1:]))
    assert maps == MAPS
    assert output.embedding.shape == (1, 256, 15)
    torch.testing.assert_close(output.embedding, x[..., 0])
    first_modules = [type(layer[0]) for layer in layers]
    dropped = [number for number, kind in enumerate(first_modules) if kind is torch.nn.Dropout]
    assert dropped == [4, 6]
    torch.testing.assert_close(
        head.eval()(output), output.embedding.mean(dim=2) @ head.linear.weight.T + head.linear.bias
    )


def test_pooling_before_the_relu_is_pooling_after_it():
    """The published order, of a network whose BatchNorm is not the identity."""
    torch.manual_seed(0)
    network = backbones.build("mobile_fcn", frames=96, mels=32, width=4)
    x = torch.randn(3, 1, 192, 32)
    network(x)
    network.eval()
    expected = x
    for *modules, pooling, relu in layers_of(network):
        for module in modules:
            expected = module(expected)
        expected = pooling(relu(expected))
    torch.testing.assert_close(network(x).embedding, expected.mean(dim=3))


def test_sizes_of_the_input():
    wider = backbones.build("mobile_fcn", frames=1457, mels=128, width=2).eval()
    assert [m.kernel_size for m in wider.layers if isinstance(m, torch.nn.MaxPool2d)][3] == (2, 4)
    shortest = backbones.build("mobile_fcn", frames=96, mels=32, width=2).eval()
    assert shortest(torch.ones(1, 1, 96, 32)).embedding.shape == (1, 8, 1)
    for options in ({"frames": 95}, {"mels": 31}, {"width": 0}):
        with pytest.raises(ValueError, match="mobile_fcn: .* expected at least 96"):
            backbones.build("mobile_fcn", **options)


def test_the_dropout_of_the_head_is_for_training_and_of_single_values():
    torch.manual_seed(0)
    head = heads.build("embedding", 2, embed_dim=1, norm=False, dropout=0.5)
    output = backbones.Output(torch.ones(1, 1, 10_000), None)
    values = (head(output) - head.linear.bias) / head.linear.weight.T
    assert values.mean().item() == pytest.approx(1.0, abs=0.05) and values[0, 0] != 1
    head.eval()
    torch.testing.assert_close(head(output)[0], head.linear.weight[:, 0] + head.linear.bias)
