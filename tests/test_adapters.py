"""Adapters against the same changes made to the frozen weights; starts, gradients and sizes."""

import copy
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers import functions_in
from timm.models.vision_transformer import Block
from torch import nn
from torch.nn import functional

from ast_repr import adapters, backbones, choices, cli, config
from ast_repr.backbones import weights
from ast_repr.classifier import Reprogrammed, build_model
from ast_repr.losses import masked_bce

CONFS = Path(__file__).parents[1] / "egs" / "openmic" / "conf"
CLASSES = ["bass", "flute", "voice"]
ZERO_STARTED = {
    "lora": {"name": "lora", "rank": 2},
    "lora on all": {"name": "lora", "rank": 2, "alpha": 3.0, "projections": ["v", "k", "q"]},
    "bottleneck": {"name": "bottleneck", "width": 4},
    "parallel bottleneck": {"name": "bottleneck", "width": 4, "parallel": True},
    "ssf": {"name": "ssf"},
    "bitfit": {"name": "bitfit"},
}
PREFIX = {"name": "prefix", "tokens": 3}
PROMPTS = {
    "prompt": {"name": "prompt", "tokens": 3},
    "deep prompt": {"name": "prompt", "tokens": 3, "deep": True},
}
NOT_ZERO_STARTED = PROMPTS | {"prefix": PREFIX}
ALL = ZERO_STARTED | NOT_ZERO_STARTED


def build(tiny_dims, adapter=None, finetune=False, **dims):
    torch.manual_seed(0)
    options = tiny_dims | {"mean": -4.0, "std": 4.5} | dims
    backbone = {"name": "ast", "options": options, "file": None, "seed": 1, "finetune": finetune}
    head = {"name": "embedding"}
    return build_model(CLASSES, "backbone", {"name": "none"}, backbone, head, adapter)


def log_mel(count=3):
    return 4.5 * torch.randn(count, 1, 64, 32, generator=torch.Generator().manual_seed(1)) - 4


def step(model, optimizer):
    optimizer.zero_grad(set_to_none=True)
    masked_bce(model(log_mel()), torch.eye(3), torch.ones(3, 3, dtype=torch.bool)).backward()
    optimizer.step()


@pytest.fixture
def changed(tiny_dims, spread):
    """Function from an adapter to a model with random values in it, and one without it."""

    def make(adapter, **dims):
        model = build(tiny_dims, adapter, **dims)
        spread(model.adapter, 2)
        return model.eval(), build(tiny_dims, **dims).eval()

    return make


@pytest.fixture(scope="module")
def ast_base():
    """AST-base as sizes without memory."""
    with torch.device("meta"):
        return backbones.build("ast")


@pytest.mark.parametrize("adapter", ZERO_STARTED.values(), ids=ZERO_STARTED)
def test_training_starts_exactly_at_the_frozen_backbone(adapter, tiny_dims):
    model = build(tiny_dims, adapter, pooled_blocks=[1])
    assert torch.equal(model(log_mel()), build(tiny_dims, pooled_blocks=[1])(log_mel()))


@pytest.mark.parametrize("adapter", NOT_ZERO_STARTED.values(), ids=NOT_ZERO_STARTED)
def test_prompts_and_prefixes_change_the_output_at_once_but_not_by_much(adapter, tiny_dims):
    difference = build(tiny_dims, adapter)(log_mel()) - build(tiny_dims)(log_mel())
    assert 0 < difference.abs().max() < 1


@pytest.mark.parametrize("adapter", ALL.values(), ids=ALL)
def test_gradients_reach_all_of_the_adapter_and_the_head_alone(adapter, tiny_dims):
    model = build(tiny_dims, adapter).train()
    before = weights.fingerprint(model.backbone)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.trainable_parameters(), lr=1e-2)
    for _ in range(3):  # a factor that starts at zero passes nothing back in the first
        step(model, optimizer)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, start[name])}
    assert moved == {name for name in start if name.startswith(("adapter.", "head."))}
    assert all(p.grad is None for p in model.backbone.parameters())
    assert (
        weights.fingerprint(model.backbone)
        == before
        == weights.fingerprint(build(tiny_dims).backbone)
    )


@pytest.mark.parametrize("adapter", ALL.values(), ids=ALL)
def test_frozen_layers_stay_on_their_fast_path(adapter, tiny_dims):
    logits = build(tiny_dims, adapter)(log_mel())
    assert "_FrozenLinearBackward" in functions_in(logits.grad_fn)


@pytest.mark.parametrize(
    ("conf", "expected"),
    [
        ("ast_lora", 12 * 2 * (2 * 768 * 12)),
        ("ast_adapter", 12 * (2 * 768 * 16 + 784)),
        ("ast_ssf", 12 * 2 * (3 * 768 + 768 + 4 * 768 + 768)),
        ("ast_bitfit", 12 * (3 * 768 + 768 + 4 * 768 + 768 + 2 * 768)),
        ("ast_prompt", 25 * 768),
        ("ast_prompt_deep", 12 * 25 * 768),
        ("ast_prefix", 12 * 2 * 32 * 768),
    ],
)
def test_parameters_at_the_size_of_ast_base(conf, expected, ast_base):
    section = config.load(CONFS, conf).adapter.to_dict()
    with torch.device("meta"):
        adapter = adapters.build(backbone=ast_base, **section)
    assert sum(p.numel() for p in adapter.parameters()) == expected


def test_lora_is_a_change_of_the_projections_weights(changed):
    model, plain = changed(ZERO_STARTED["lora on all"])
    with torch.no_grad():
        for block, update in zip(plain.backbone.blocks, model.adapter.updates, strict=True):
            products = [update.up[name] @ update.down[name] for name in ("q", "k", "v")]
            block.attn.qkv.weight += 3.0 / 2 * torch.cat(products)
    torch.testing.assert_close(model(log_mel()), plain(log_mel()))


def test_lora_changes_the_chosen_projections_alone(changed):
    model, _ = changed(ZERO_STARTED["lora"])
    qkv = model.backbone.blocks[0].attn.qkv
    x = torch.randn(2, 5, 32)
    difference = qkv(x) - functional.linear(x, qkv.weight, qkv.bias)
    sizes = [part.abs().max() for part in difference.chunk(3, dim=-1)]
    assert sizes[0] > 1e-4 and sizes[1] < 1e-6 and sizes[2] > 1e-4


@pytest.mark.parametrize("name", ["ssf", "bitfit"])
def test_ssf_and_bitfit_are_changes_of_weights_and_biases(name, changed):
    model, plain = changed(ZERO_STARTED[name])
    kinds = nn.Linear if name == "ssf" else nn.Linear | nn.LayerNorm
    layers = [module for module in plain.backbone.blocks.modules() if isinstance(module, kinds)]
    with torch.no_grad():
        for layer, change in zip(layers, model.adapter.layers, strict=True):
            if name == "ssf":
                layer.weight *= change.scale[:, None]
                layer.bias.mul_(change.scale).add_(change.shift)
            else:
                layer.bias += change.change
    torch.testing.assert_close(model(log_mel()), plain(log_mel()))


class WithBottleneck(nn.Module):
    """An MLP and a bottleneck after it or beside it."""

    def __init__(self, mlp, layer):
        super().__init__()
        self.mlp = mlp
        self.layer = layer

    def forward(self, x):
        y = self.mlp(x)
        hidden = self.layer.down(x if self.layer.parallel else y)
        return y + self.layer.up(functional.gelu(hidden))


@pytest.mark.parametrize("name", ["bottleneck", "parallel bottleneck"])
def test_a_bottleneck_is_part_of_the_mlp(name, changed):
    model, plain = changed(ZERO_STARTED[name])
    for block, layer in zip(plain.backbone.blocks, model.adapter.layers, strict=True):
        block.mlp = WithBottleneck(block.mlp, layer)
    torch.testing.assert_close(model(log_mel()), plain(log_mel()))


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts_are_tokens_of_the_blocks_and_of_nothing_else(name, changed):
    model, plain = changed(PROMPTS[name], pooled_blocks=[1])
    network = plain.backbone
    x = plain.normalise(log_mel())
    with torch.no_grad():
        patches = network.patch_embed(x.transpose(2, 3)).flatten(2).transpose(1, 2)
        start = torch.cat([network.cls_token, network.dist_token], dim=1).expand(3, -1, -1)
        tokens = torch.cat([start, patches], dim=1) + network.pos_embed
        count = tokens.shape[1]
        prompts = [layer.tokens.expand(3, -1, -1) for layer in model.adapter.layers]
        tokens = network.blocks[0](torch.cat([tokens, prompts[0]], dim=1))
        patches = functional.layer_norm(tokens[:, 2:count], (32,))
        if name == "deep prompt":
            tokens = torch.cat([tokens[:, :count], prompts[1]], dim=1)
        pooled = [network.norm(network.blocks[1](tokens)).mean(dim=1)]
        pooled += [patches.mean(dim=1), patches.amax(dim=1)]
        expected = torch.cat(pooled, dim=1)
        torch.testing.assert_close(model.backbone(x).embedding, expected)


class PrefixedAttention(nn.Module):
    """timm's attention, with further keys and values."""

    def __init__(self, attn, layer):
        super().__init__()
        self.attn = attn
        self.prefix = layer.keys_and_values

    def forward(self, x, **none):
        heads = self.attn.num_heads
        q, k, v = self.attn.qkv(x).chunk(3, dim=2)
        more_k, more_v = self.prefix.expand(len(x), -1, -1).chunk(2, dim=2)
        k = torch.cat([k, more_k], dim=1)
        v = torch.cat([v, more_v], dim=1)
        q, k, v = [part.unflatten(2, (heads, -1)).transpose(1, 2) for part in (q, k, v)]
        weight = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(dim=3)
        return self.attn.proj((weight @ v).transpose(1, 2).flatten(2))


def test_a_prefix_is_keys_and_values_of_every_block(changed):
    model, plain = changed(PREFIX, pooled_blocks=[1])
    plain.backbone.return_tokens()
    for block, layer in zip(plain.backbone.blocks, model.adapter.layers, strict=True):
        block.attn = PrefixedAttention(block.attn, layer)
    plain.backbone.blocks[-1].forward = partial(Block.forward, plain.backbone.blocks[-1])
    torch.testing.assert_close(model(log_mel()), plain(log_mel()))
    model.backbone.return_tokens()
    x = model.normalise(log_mel())
    torch.testing.assert_close(model.backbone(x).tokens, plain.backbone(x).tokens)


@pytest.mark.parametrize(("name", "expected"), [("ssf", 1506), ("bitfit", 753)])
def test_ssf_and_bitfit_are_changes_of_the_batchnorms_of_musicnn(name, expected, spread):
    network = spread(backbones.build("musicnn", frames=187))
    changed = copy.deepcopy(network)
    x = torch.randn(1, 1, 187, 96, generator=torch.Generator().manual_seed(1))
    adapter = adapters.build(name, network)
    assert sum(p.numel() for p in adapter.parameters()) == expected
    assert torch.equal(network(x).embedding, changed(x).embedding)
    spread(adapter, 2)
    parts = [*changed.front, *changed.middle]
    with torch.no_grad():
        for part, layer in zip(parts, adapter.layers, strict=True):
            if name == "ssf":
                layer.scale += 1  # a negative weight would make the maximum over bands a minimum
                part.norm.weight *= layer.scale[:, 0]
                part.norm.bias.mul_(layer.scale[:, 0]).add_(layer.shift[:, 0])
            else:
                part.norm.bias += layer.change[:, 0]
    torch.testing.assert_close(network(x).embedding, changed(x).embedding)
    network.requires_grad_(False)
    network(x).embedding.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in adapter.parameters())


@pytest.mark.parametrize("adapter", [*PROMPTS.values(), PREFIX], ids=[*PROMPTS, "prefix"])
def test_an_adapters_tokens_stay_the_last_under_patchout(adapter, tiny_dims):
    count = adapter["tokens"]
    model = build(tiny_dims, adapter, patchout_time=0.5).train()
    lengths = []
    for block in model.backbone.blocks:
        block.norm1.register_forward_pre_hook(lambda norm, x: lengths.append(x[0].shape[1]))
    model(log_mel())
    model.eval()(log_mel())
    assert lengths == 2 * [2 + 2 * 2 + count] + 2 * [2 + 2 * 4 + count]


@pytest.mark.parametrize("adapter", ALL.values(), ids=ALL)
def test_a_copy_has_an_adapter_that_is_trained_separately(adapter, tiny_dims, spread):
    model = build(tiny_dims, adapter)
    expected = model(log_mel())
    other = model.copy_with_shared_backbone()
    assert torch.equal(other(log_mel()), expected)
    spread(other.adapter, 2)
    assert torch.equal(model(log_mel()), expected)
    assert not torch.allclose(other(log_mel()), expected)
    shared = {id(p) for p in model.parameters()} & {id(p) for p in other.parameters()}
    assert shared == {id(p) for p in model.backbone.parameters()}


@pytest.mark.parametrize("adapter", ALL.values(), ids=ALL)
def test_the_trained_state_is_small_and_restores_the_model(adapter, tiny_dims, spread):
    model = build(tiny_dims, adapter)
    spread(model.adapter, 2)
    state = copy.deepcopy(model.trainable_state_dict())
    assert {name.partition(".")[0] for name in state} == {"adapter", "head"}
    other = build(tiny_dims, adapter)
    other.load_trainable_state_dict(state)
    assert torch.equal(other(log_mel()), model(log_mel()))


@pytest.mark.parametrize("adapter", ALL.values(), ids=ALL)
def test_activation_checkpointing_changes_no_gradient(adapter, changed):
    model, _ = changed(adapter)
    gradients = []
    for recompute in (False, True):
        model.backbone.grad_checkpointing = recompute
        gradients.append(torch.autograd.grad(model(log_mel()).sum(), model.adapter.parameters()))
    torch.testing.assert_close(gradients[0], gradients[1])


def test_there_is_a_conf_for_every_adapter():
    sections = [config.load(CONFS, name).adapter for name in choices.confs(CONFS)]
    assert {section.name for section in sections if section} == set(adapters.ADAPTERS)


def test_a_model_with_an_adapter_is_not_head_only(tiny_dims):
    assert not build(tiny_dims, {"name": "ssf"}).head_only
    assert isinstance(build(tiny_dims), Reprogrammed) and build(tiny_dims).head_only


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("loar", {}, "unknown adapter 'loar': did you mean 'lora'"),
        ("lora", {"rang": 2}, "'rang': did you mean 'rank'"),
        ("lora", {"rank": 0}, "rank 0"),
        ("lora", {"projections": []}, "some of q, k, v"),
        ("lora", {"projections": ["o"]}, "unknown projection of lora 'o'"),
        ("lora", {"rank": 10**9}, "expected a rank from 1 to 10000"),
        ("bottleneck", {"width": 0}, "width 0; expected from 1 to 10000"),
        ("prompt", {"tokens": 0}, "tokens 0; expected from 1 to 10000"),
        ("prefix", {"tokens": 0}, "tokens 0; expected from 1 to 10000"),
    ],
)
def test_impossible_choices_are_refused(name, options, message, tiny_ast):
    with pytest.raises(ValueError, match=message):
        adapters.build(name, tiny_ast(), **options)


def test_a_backbone_without_blocks_is_refused():
    expected = "'lora': found a backbone Musicnn, expected .* or on musicnn ssf or bitfit"
    with pytest.raises(ValueError, match=expected):
        adapters.build("lora", backbones.build("musicnn"))
    with pytest.raises(ValueError, match="'ssf': found a backbone Pool"):
        adapters.build("ssf", backbones.build("pool"))


def test_all_says_which_confs_a_network_without_tokens_leaves_out(capsys):
    parser = cli.parser("check")
    cli.add_conf_options(parser)
    args = ["--conf-dir", str(CONFS), "--conf", "all", "--backbone", "musicnn_msd"]
    confs = cli.confs(parser.parse_args(args))
    line = capsys.readouterr().out
    assert line.startswith("left out, since musicnn_msd is no transformer: ast_adapter, ")
    left_out = set(line.rpartition(": ")[2].strip().split(", "))
    assert left_out | set(confs) == set(choices.confs(CONFS))
    assert {"ast_lora", "ast_prefix", "ast_stacked", "ast_prototypes"} <= left_out
    assert {"ast_ssf", "ast_bitfit", "ast_linear"} <= set(confs)
