"""The freeze policy, tested both ways; normalisation of the input; the trained state."""

from functools import partial

import pytest
import torch
from timm.models.vision_transformer import Block

from ast_repr import backbones, heads, reprogrammers
from ast_repr.backbones import weights
from ast_repr.classifier import (
    HeadOnlyModel,
    Reprogrammed,
    build_model,
    multiply_accumulates,
    probabilities,
)
from ast_repr.losses import masked_bce

KINDS = {
    "none": {"name": "none"},
    "noise": {"name": "noise"},
    "normal noise": {"name": "noise", "start": "normal"},
    "border": {"name": "adversarial"},
    "everywhere": {"name": "adversarial", "place": "everywhere"},
    "cnn": {"name": "cnn"},
    "residual cnn": {"name": "cnn", "residual": True, "width": 4, "nonlinearity": "relu"},
    "unet": {"name": "unet"},
    "residual unet": {"name": "unet", "residual": True},
    "film": {"name": "film"},
    "smm": {"name": "smm"},
}
HEADS = {"embedding": {"name": "embedding"}, "labelmap": {"name": "labelmap"}}
POOLING = {"name": "attentive_pooling", "token_dim": 32}


def build(tiny_ast, reprogrammer="none", head="embedding", **options):
    torch.manual_seed(0)
    return Reprogrammed(
        reprogrammers.build(frames=64, bins=32, **KINDS[reprogrammer]),
        tiny_ast(),
        heads.build(n_classes=3, embed_dim=32, n_source=10, **HEADS[head]),
        **options,
    )


def data(count=6):
    generator = torch.Generator().manual_seed(4)
    x = 4.5 * torch.randn(count, 1, 64, 32, generator=generator) - 4
    return (
        x,
        torch.rand(count, 3, generator=generator),
        torch.rand(count, 3, generator=generator) < 0.7,
    )


def step(model, optimizer):
    optimizer.zero_grad(set_to_none=True)
    x, targets, mask = data()
    masked_bce(model(x), targets, mask).backward()
    optimizer.step()


@pytest.mark.parametrize("head", HEADS)
def test_bfloat16_rounds_everything_before_the_head(head, tiny_ast):
    model = build(tiny_ast, "residual cnn", head).eval()
    x, _, _ = data()
    expected = model.encode(x)
    model.bf16 = True
    output = model.encode(x)
    for value, reference in zip(output[:2], expected[:2], strict=True):
        assert value.dtype == torch.float32
        assert not torch.equal(value, reference)
        torch.testing.assert_close(value, reference, rtol=0.05, atol=0.05)
    assert torch.equal(model(x), model.head(output))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("kind", KINDS)
def test_only_reprogrammer_and_head_change_in_training(kind, head, tiny_ast):
    model = build(tiny_ast, kind, head).train()
    optimizer = torch.optim.AdamW(model.trainable_parameters(), lr=1e-2)
    before, start = (
        weights.fingerprint(model.backbone),
        {n: p.detach().clone() for n, p in model.named_parameters()},
    )
    reached = set()
    for _ in range(2):  # layers that start at zero gate later ones during the first step
        step(model, optimizer)
        reached |= {
            name
            for name, p in model.named_parameters()
            if p.grad is not None and (p.grad != 0).any()
        }
    step(model, optimizer)
    meant = {
        name for name, _ in model.named_parameters() if name.startswith(("reprogrammer.", "head."))
    }
    assert reached == meant
    assert all(p.grad is None for p in model.backbone.parameters())
    assert weights.fingerprint(model.backbone) == before
    assert all(
        torch.equal(p, start[name]) != (name in meant) for name, p in model.named_parameters()
    )


def test_a_fixed_label_map_is_not_trained(tiny_ast):
    head = heads.build("labelmap", n_classes=3, n_source=10, kind="groups")
    model = Reprogrammed(reprogrammers.build("noise", frames=64, bins=32), tiny_ast(), head)
    step(model, torch.optim.SGD(model.trainable_parameters(), lr=0.1))
    assert [p.shape for p in model.trainable_parameters()] == [(1, 1, 64, 32)]
    assert model.reprogrammer.delta.grad.abs().max() > 0
    assert head.map.weight.grad is None


@pytest.mark.parametrize(("head", "frozen"), [("embedding", True), ("labelmap", False)])
def test_fine_tuning_trains_all_but_an_unused_source_head(head, frozen, tiny_ast):
    model = build(tiny_ast, "none", head, finetune=True).train()
    assert model.backbone.training
    step(model, torch.optim.AdamW(model.trainable_parameters(), lr=1e-3))
    still = {
        name for name, p in model.named_parameters() if p.grad is None or not (p.grad != 0).any()
    }
    assert still == (
        {name for name, _ in model.named_parameters() if name.startswith("backbone.source_head.")}
        if frozen
        else set()
    )
    assert not model.head_only


def test_the_frozen_backbone_stays_in_eval_mode(tiny_ast):
    model = build(tiny_ast, "unet")
    for mode in (True, False, True):
        model.train(mode)
        assert model.reprogrammer.training == model.head.training == mode
        assert not any(module.training for module in model.backbone.modules())


def test_the_frozen_backbone_drops_patches_in_training_alone(tiny_ast):
    model = build(partial(tiny_ast, patchout_time=0.5), "unet")
    for mode in (True, False, True):
        model.train(mode)
        training = {module for module in model.backbone.modules() if module.training}
        assert training == ({model.backbone.patchout} if mode else set())


@pytest.mark.parametrize(
    ("norm", "mean", "std"),
    [
        ("backbone", backbones.AUDIOSET_MEAN, backbones.AUDIOSET_STD),
        ((-7.0, 2.0), -7.0, 2.0),
        ([-7.0, 2.0], -7.0, 2.0),
        ("none", 0.0, 0.5),
    ],
)
def test_the_input_is_normalised_as_asked(norm, mean, std, tiny_ast):
    model, (x, _, _) = build(tiny_ast, norm=norm), data()
    torch.testing.assert_close(model.normalise(x), (x - mean) / (2 * std), rtol=0, atol=1e-6)
    model.eval()
    expected = model.head(model.backbone((x - mean) / (2 * std)))
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-6)


def test_none_leaves_the_input_to_the_bit(tiny_ast):
    assert torch.equal(build(tiny_ast, norm="none").normalise(data()[0]), data()[0])


@pytest.mark.parametrize("head", HEADS)
def test_a_head_on_its_cached_input_equals_the_whole_model(head, tiny_ast):
    model, (x, _, _) = build(tiny_ast, head=head).eval(), data()
    assert model.head_only
    torch.testing.assert_close(
        HeadOnlyModel(model)(model.head_input(x)), model(x), rtol=0, atol=1e-6
    )


def test_tokens_are_those_of_the_patches_and_change_nothing_else(tiny_ast):
    plain = tiny_ast()
    network = tiny_ast()
    model = Reprogrammed(
        reprogrammers.build("none"), network, heads.build(n_classes=3, **POOLING)
    ).train()
    x = data()[0]
    output = model.encode(x)
    expected = plain(model.normalise(x))
    torch.testing.assert_close(output.embedding, expected.embedding)
    torch.testing.assert_close(output.source_logits, expected.source_logits)
    assert expected.tokens is None
    with torch.no_grad():
        x = model.normalise(x)
        patches = network.patch_embed(x.transpose(2, 3)).flatten(2).transpose(1, 2)
        first = torch.cat([network.cls_token, network.dist_token], dim=1).expand(6, -1, -1)
        tokens = torch.cat([first, patches], dim=1) + network.pos_embed
        for block in network.blocks:
            tokens = Block.forward(block, tokens)  # timm's, also for the last
        torch.testing.assert_close(output.tokens, network.norm(tokens)[:, 2:])
    step(model, torch.optim.AdamW(model.trainable_parameters(), lr=1e-2))
    assert model.head_only
    torch.testing.assert_close(HeadOnlyModel(model)(output.tokens), model.head(output))
    assert all(p.grad is None for p in model.backbone.parameters())
    assert all(p.grad is not None for p in model.head.parameters())


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "none"])
def test_a_model_that_reprograms_is_not_head_only(kind, tiny_ast):
    assert not build(tiny_ast, kind).head_only


@pytest.mark.parametrize(
    ("learns", "probe"), [("all", False), ("statistics", False), ("nothing", True)]
)
def test_with_a_unet_only_the_head_is_trained_if_all_of_the_unet_is_frozen(learns, probe, tiny_ast):
    model = Reprogrammed(
        reprogrammers.build("unet", 64, 32, learns=learns),
        tiny_ast(),
        heads.build("embedding", 3, 32),
    )
    assert model.head_only == probe
    before = {name: tensor.clone() for name, tensor in model.reprogrammer.state_dict().items()}
    step(model.train(), torch.optim.AdamW(model.trainable_parameters(), lr=1e-2))
    moved = {
        name
        for name, tensor in model.reprogrammer.state_dict().items()
        if not torch.equal(tensor, before[name])
    }
    statistics = {name for name in before if "running" in name or "num_batches" in name}
    assert moved == {"all": set(before), "statistics": statistics, "nothing": set()}[learns]


@pytest.mark.parametrize("finetune", [False, True])
def test_a_copy_is_trained_separately_and_shares_only_the_frozen_backbone(finetune, tiny_ast):
    model = build(tiny_ast, "unet", finetune=finetune)
    for one in (model, HeadOnlyModel(model)):
        other = one.copy_with_shared_backbone()
        shared = {id(p) for p in one.parameters()} & {id(p) for p in other.parameters()}
        assert shared == (set() if finetune else {id(p) for p in model.backbone.parameters()})


def test_multiply_accumulates_are_those_of_the_layers(tiny_ast, tiny_dims):
    """By hand: patches; per token a block's qkv, proj and MLP (12 D^2) and attention (2 N D).

    Of the last block qkv is computed for all tokens and the rest for two.
    """
    model, d = build(tiny_ast), tiny_dims
    rows, columns = model.backbone.grid
    tokens, width = 2 + rows * columns, d["embed_dim"]
    blocks = (d["depth"] - 1) * tokens * (12 * width**2 + 2 * tokens * width)
    last = tokens * 3 * width**2 + 2 * (9 * width**2 + 2 * tokens * width)
    expected = (
        rows * columns * d["patch"] ** 2 * width + blocks + last + width * (d["n_source"] + 3)
    )
    assert multiply_accumulates(model, (1, 64, 32)) == expected
    assert model.training


def size(state):
    return sum(tensor.numel() * tensor.element_size() for tensor in state.values())


def test_the_trained_state_is_small_and_restores_the_model(tiny_ast):
    model = build(tiny_ast, "unet").train()
    optimizer = torch.optim.AdamW(model.trainable_parameters(), lr=1e-2)
    for _ in range(3):
        step(model, optimizer)
    state = {name: tensor.clone() for name, tensor in model.trainable_state_dict().items()}
    assert not any(name.startswith("backbone.") for name in state)
    assert size(state) < 8_000 < size(model.state_dict()) / 10
    assert any("running_var" in name for name in state)
    other = build(tiny_ast, "unet")
    other.load_trainable_state_dict(state)
    assert torch.equal(other.eval()(data()[0]), model.eval()(data()[0]))


def test_fine_tuning_keeps_the_backbone_too(tiny_ast):
    model = build(tiny_ast, finetune=True)
    assert model.trainable_state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize(
    "name", ["head.linear.bias", "reprogrammer.d7.weight", "backbone.cls_token"]
)
def test_trained_states_are_loaded_strictly(name, tiny_ast):
    """The first is missing, the others do not belong there."""
    model = build(tiny_ast, "unet")
    state = dict(model.trainable_state_dict())
    if name in state:
        del state[name]
    else:
        state[name] = torch.zeros(1, 1, 32)
    with pytest.raises(ValueError, match=name):
        model.load_trainable_state_dict(state)


def values(tiny_dims, **backbone):
    return {
        "norm": "backbone",
        "reprogrammer": {"name": "noise"},
        "head": {"name": "embedding"},
        "backbone": {
            "name": "ast",
            "options": tiny_dims | {"mean": -4.0, "std": 4.0},
            "file": None,
            "seed": 3,
            "finetune": False,
        }
        | backbone,
    }


def test_plain_values_build_the_same_model_again(tiny_dims, tiny_ast, tmp_path):
    one, two, other = (
        build_model(["a", "b"], **values(tiny_dims, seed=seed)) for seed in (3, 3, 4)
    )
    prints = [weights.fingerprint(model.backbone) for model in (one, two, other)]
    assert prints[0] == prints[1] != prints[2]
    assert (one.mean, one.std) == (-4.0, 4.0)
    assert one.head.linear.out_features == 2
    weights.save(tiny_ast(), tmp_path / "x.safetensors")
    loaded = build_model(["a", "b"], **values(tiny_dims, file=str(tmp_path / "x.safetensors")))
    assert weights.fingerprint(loaded.backbone) == weights.fingerprint(tiny_ast())


def test_random_backbones_leave_the_callers_random_numbers_alone(tiny_dims):
    drawn = []
    for seed in (3, 4):
        torch.manual_seed(0)
        drawn.append(build_model(["a"], **values(tiny_dims, seed=seed)).head.linear.weight)
    assert torch.equal(*drawn)


def test_bands_are_normalised_each_by_its_statistics(tiny_ast):
    means = torch.linspace(-5, 0, 32)
    stds = torch.linspace(1, 4, 32)
    model = build(tiny_ast, norm=[means.tolist(), stds.tolist()])
    x = data()[0]
    torch.testing.assert_close(model.normalise(x), (x - means) / (2 * stds))
    assert not {"mean", "std"} & model.state_dict().keys()
    with pytest.raises(ValueError, match="input norm: a standard deviation of 0"):
        build(tiny_ast, norm=[[0.0] * 32, [0.0] * 32])


def test_an_unknown_norm_lists_the_valid_ones(tiny_dims):
    with pytest.raises(ValueError, match="unknown input norm 'backbon': did you mean 'backbone'"):
        build_model(["a"], **(values(tiny_dims) | {"norm": "backbon"}))


def test_probabilities_are_those_of_eval_mode_and_the_mode_is_put_back(tiny_ast, tiny_clips):
    model, clips = build(tiny_ast, "unet").train(), tiny_clips(7)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = probabilities(model, clips.batches(3), torch.device("cpu"))
    assert model.training
    assert not model.backbone.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    with torch.no_grad():
        expected = model.eval()(clips.batch(torch.arange(7)).features.float()).sigmoid()
    assert found.shape == (7, 3)
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=1e-5)
