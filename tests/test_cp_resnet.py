"""CP-ResNet: its layers and their start, and training from scratch as a conf has it."""

import pytest
import torch

from ast_repr import backbones, heads

# Maps after each pooling and stage, and parameters of each stage, as published for 128 channels.
MAPS = [(128, 500, 64), (128, 250, 32), (128, 125, 16), (128, 62, 8)]
STAGES = [1_050_624, 2_363_904, 2_106_368]


def count(modules):
    return sum(p.numel() for module in modules for p in module.parameters())


def test_the_published_network_layer_by_layer():
    network = backbones.build("cp_resnet", frames=1000).eval()
    head = heads.build("embedding", 20, embed_dim=network.embed_dim, norm=False)
    assert count([network, head]) == 5_534_612
    blocks = [layer for layer in network.layers if hasattr(layer, "shortcut")]
    assert [count(blocks[first : first + 4]) for first in (0, 4, 8)] == STAGES
    maps = []
    for layer in network.layers:
        if isinstance(layer, torch.nn.Conv2d | torch.nn.MaxPool2d):
            layer.register_forward_hook(lambda layer, args, out: maps.append(tuple(out.shape[1:])))
    with torch.no_grad():
        output = network(torch.randn(1, 1, 1000, 128))
    assert maps == MAPS
    assert output.embedding.shape == (1, 512, 62)
    logits = head(output)
    expected = output.embedding.mean(dim=2) @ head.linear.weight.T + head.linear.bias
    torch.testing.assert_close(logits, expected)


def test_a_narrower_network_is_the_small_student():
    network = backbones.build("cp_resnet", width=16)
    head = heads.build("embedding", 20, embed_dim=network.embed_dim, norm=False)
    assert network.embed_dim == 64
    assert count([network, head]) == 89_732


def test_a_block_is_its_shortcut_at_first():
    torch.manual_seed(0)
    network = backbones.build("cp_resnet", frames=32, mels=32, width=4).eval()
    for block in network.layers:
        if hasattr(block, "shortcut"):
            x = torch.randn(2, block.residual[0].in_channels, 5, 5)
            torch.testing.assert_close(block(x), block.shortcut(x).relu())
    wide = backbones.build("cp_resnet").layers[3].residual[0].weight
    assert wide.std().item() == pytest.approx((2 / (9 * 128 * 12)) ** 0.5, rel=0.02)


def test_the_shortest_input_is_enough_and_a_shorter_one_is_refused():
    output = backbones.build("cp_resnet", frames=16, mels=16, width=2).eval()(
        torch.ones(1, 1, 16, 16)
    )
    assert output.embedding.shape == (1, 8, 1)
    for options in ({"frames": 15}, {"mels": 15}, {"width": 0}):
        with pytest.raises(ValueError, match="cp_resnet: .* expected at least 16"):
            backbones.build("cp_resnet", **options)
