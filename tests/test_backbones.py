"""The AST: equal to transformers' with the same weights, in every layout."""

import json
import re
import shutil
import sysconfig
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ast_repr import backbones
from ast_repr.backbones import cpu_kernels, weights
from ast_repr.backbones.weights import WeightsError

DIMS = {
    "embed_dim": 128,
    "depth": 2,
    "num_heads": 2,
    "patch": 16,
    "stride": 10,
    "frames": 128,
    "mels": 128,
    "n_source": 7,
}
ODD = {
    "embed_dim": 32,
    "depth": 1,
    "num_heads": 4,
    "patch": 16,
    "stride": 10,
    "frames": 64,
    "mels": 32,
    "n_source": 7,
}
BASE = {
    "embed_dim": 768,
    "depth": 12,
    "num_heads": 12,
    "patch": 16,
    "stride": 10,
    "frames": 1024,
    "mels": 128,
    "n_source": 527,
}
LAYOUTS = ("author", "hub", "transformers", "ast_repr")


def reference(dims):
    """Build the AST of transformers of the same size."""
    transformers = pytest.importorskip("transformers", reason="needs the extra `test-heavy`")
    config = transformers.ASTConfig(
        hidden_size=dims["embed_dim"],
        num_hidden_layers=dims["depth"],
        num_attention_heads=dims["num_heads"],
        intermediate_size=4 * dims["embed_dim"],
        patch_size=dims["patch"],
        time_stride=dims["stride"],
        frequency_stride=dims["stride"],
        max_length=dims["frames"],
        num_mel_bins=dims["mels"],
        num_labels=dims["n_source"],
    )
    return transformers.ASTForAudioClassification(config).eval()


def author_layout(state):
    """The authors' names, with DeiT's dead ImageNet heads that their files carry."""
    own = {}
    for key, tensor in state.items():
        key = re.sub(r"^patch_embed\.", "v.patch_embed.proj.", key)
        key = re.sub(r"^source_head\.", "mlp_head.", key)
        key = re.sub(r"^(cls_token|dist_token|pos_embed|norm\.|blocks\.)", r"v.\1", key)
        own[f"module.{key}"] = tensor
    width = state["cls_token"].shape[-1]
    for head in ("head", "head_dist"):
        own |= {
            f"module.v.{head}.weight": torch.ones(1000, width),
            f"module.v.{head}.bias": torch.ones(1000),
        }
    return own


def in_layout(layout, folder, spread, dims=DIMS):
    """A file in `layout`, and transformers' model that has the same weights."""
    model = spread(reference(dims))
    hub = folder / "model.safetensors"
    if layout == "hub":
        model.save_pretrained(folder)
        return hub, model
    save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, hub)
    if layout == "transformers":
        return hub, model
    own = weights.load(backbones.build("ast", **dims), hub)
    hub.unlink()
    path = folder / ("ast.pth" if layout == "author" else "ast.safetensors")
    if layout == "author":
        torch.save(author_layout(own.state_dict()), path)
    else:
        weights.save(own, path, source_classes=list("abcdefg"))
    return path, model


def log_mels(dims, count=2):
    return torch.randn(
        count, dims["frames"], dims["mels"], generator=torch.Generator().manual_seed(5)
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_logits_of_transformers(layout, tmp_path, spread):
    path, model = in_layout(layout, tmp_path, spread)
    own = weights.load(backbones.build("ast", **DIMS), path).eval()
    x = log_mels(DIMS)
    with torch.no_grad():
        expected, found = model(x).logits, own(x[:, None])
    assert expected.std() > 0.1
    assert (expected[0] - expected[1]).abs().max() > 1e-2
    assert (found.source_logits - expected).abs().max() <= 1e-4
    assert found.embedding.shape == (2, 128)


@pytest.mark.slow
def test_ast_base_gives_the_logits_of_transformers(tmp_path, spread):
    path, model = in_layout("transformers", tmp_path, spread, BASE)
    own = weights.load(backbones.build("ast", **BASE), path).eval()
    assert weights.read_header(path) == {"layout": "transformers", "dims": BASE}
    path.unlink()  # a third of a gigabyte
    with torch.no_grad():
        expected, found = (
            model(log_mels(BASE, 1)).logits,
            own(log_mels(BASE, 1)[:, None]).source_logits,
        )
    assert expected.std() > 0.1
    assert (found - expected).abs().max() <= 1e-4


CAN_COMPILE = shutil.which("g++") and (Path(sysconfig.get_path("include")) / "Python.h").is_file()
COMPILE = pytest.param(
    "compile",
    marks=[
        pytest.mark.slow,
        pytest.mark.skipif(not CAN_COMPILE, reason="no C++ compiler, or no Python.h"),
    ],
)


@pytest.mark.parametrize("way", ["plain", "cpu_kernels", "grad_checkpointing", COMPILE])
def test_the_gradient_of_the_input_is_that_of_transformers(way, tmp_path, spread):
    path, model = in_layout("transformers", tmp_path, spread)
    backbone = weights.load(backbones.build("ast", **DIMS), path).requires_grad_(False)
    backbone.grad_checkpointing = way == "grad_checkpointing"
    if way != "plain":
        cpu_kernels.enable(backbone)
    if way == "compile":
        backbone.compile()
    x = torch.randn(3, 1, 128, 128, generator=torch.Generator().manual_seed(0), requires_grad=True)
    found, expected = backbone(x).source_logits, model(x[:, 0]).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    found, expected = (
        torch.autograd.grad(logits.sin().sum(), x)[0] for logits in (found, expected)
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def test_gradient_checkpointing_keeps_less_for_the_backward_pass(tiny_ast):
    backbone = tiny_ast(depth=4).requires_grad_(False)
    x = torch.randn(2, 1, 64, 32, requires_grad=True)

    def kept_bytes(checkpointing):
        sizes = []

        def pack(tensor):
            sizes.append(tensor.nbytes)
            return tensor

        backbone.grad_checkpointing = checkpointing
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            backbone(x)
        return sum(sizes)

    assert kept_bytes(True) < 0.5 * kept_bytes(False)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_header_gives_layout_and_dims(layout, tmp_path, spread):
    header = weights.read_header(in_layout(layout, tmp_path, spread)[0])
    assert header["layout"] == layout
    assert header["dims"] == DIMS
    assert (header.get("source_classes") == list("abcdefg")) == (layout == "ast_repr")


def test_dims_that_shapes_cannot_tell_come_from_the_config_beside_the_file(tmp_path, spread):
    path, _ = in_layout("hub", tmp_path, spread, ODD)
    assert weights.read_header(path)["dims"] == ODD
    (tmp_path / "config.json").unlink()
    with pytest.raises(WeightsError, match="config.json"):
        weights.read_header(path)


def test_statistics_come_from_the_hub_s_preprocessor_beside_the_file(tmp_path, spread):
    path, _ = in_layout("hub", tmp_path, spread)
    assert "mean" not in weights.read_header(path)
    config = {"feature_extractor_type": "ASTFeatureExtractor", "mean": -6.8, "std": 5.5}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    header = weights.read_header(path)
    assert (header["mean"], header["std"]) == (-6.8, 5.5)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config | {"std": "wide"}))
    with pytest.raises(WeightsError, match="preprocessor_config.json"):
        weights.read_header(path)


def author_file(folder, tiny_ast, columns, stride=10, patch=16):
    """A file as the authors' recipes leave it, for an input of so many columns of patches."""
    frames = (columns - 1) * stride + patch
    backbone = tiny_ast(frames=frames, mels=128, stride=stride, patch=patch)
    path = folder / "best_audio_model.pth"
    torch.save(author_layout(backbone.state_dict()), path)
    return path, backbone


# Columns are those of the authors' recipes: AudioSet 1024 frames, ESC-50 512, Speech Commands 128.
@pytest.mark.parametrize(
    ("stride", "columns", "frames"),
    [
        (10, 101, 1024),
        (12, 85, 1024),
        (14, 73, 1024),
        (16, 64, 1024),
        (10, 50, 512),
        (10, 12, 128),
        (16, 8, 128),
        (10, 30, 306),  # three seconds
        (10, 35, 356),  # as many patches as stride 12 has of 512 frames
        (16, 31, 496),
    ],
)
def test_stride_and_length_follow_from_the_position_embeddings(
    stride, columns, frames, tmp_path, tiny_ast
):
    path, backbone = author_file(tmp_path, tiny_ast, columns, stride)
    dims = weights.read_header(path)["dims"]
    assert (dims["stride"], dims["frames"], dims["mels"]) == (stride, frames, 128)
    again = weights.load(backbones.build("ast", **dims | {"num_heads": 2}), path)
    assert again.grid == backbone.grid
    assert weights.fingerprint(again) == weights.fingerprint(backbone)


@pytest.mark.parametrize(("columns", "first"), [(30, None), (101, 0), (120, 9)])
def test_position_embeddings_of_any_length_serve_ten_seconds(columns, first, tmp_path, tiny_ast):
    path, backbone = author_file(tmp_path, tiny_ast, columns)
    dims = weights.read_header(path)["dims"] | {"frames": 1024}
    ten = weights.load(backbones.build("ast", **dims), path)
    assert ten.grid == (12, 101)
    assert ten(torch.randn(1, 1, 1024, 128)).source_logits.isfinite().all()
    if first is not None:
        old, new = (one.pos_embed[0, 2:].unflatten(0, one.grid) for one in (backbone, ten))
        assert torch.equal(new, old[:, first : first + 101])


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3, "best": 0.459},
        lambda state: {"model": state, "optimizer": {"lr": 0.1}},
        lambda state: {"model": {"state_dict": state}},
        lambda state: {f"module.{key}": tensor for key, tensor in state.items()},
        lambda state: {key.removeprefix("module."): tensor for key, tensor in state.items()},
        lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}},
    ],
    ids=["state_dict", "model", "nested", "module twice", "no module", "both"],
)
def test_tensors_of_a_training_checkpoint_are_unwrapped(wrap, tmp_path, tiny_ast):
    path, backbone = author_file(tmp_path, tiny_ast, 12)
    torch.save(wrap(torch.load(path)), path)
    assert weights.read_header(path)["layout"] == "author"
    again = weights.load(tiny_ast(**backbone.dims), path)
    assert weights.fingerprint(again) == weights.fingerprint(backbone)


@pytest.mark.parametrize(
    "value", [{"epoch": 3}, {"state_dict": [1]}, {"model": {"a": 1}}, [torch.zeros(2)]]
)
def test_a_file_without_named_tensors_is_refused(value, tmp_path):
    torch.save(value, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="x.pth: .*state_dict"):
        weights.read_header(tmp_path / "x.pth")


def test_a_byte_order_mark_in_config_json_changes_nothing(tmp_path, spread):
    path, _ = in_layout("hub", tmp_path, spread, ODD)
    config = tmp_path / "config.json"
    config.write_bytes(b"\xef\xbb\xbf" + config.read_bytes())
    assert weights.read_header(path)["dims"] == ODD
    config.write_text("{")
    with pytest.raises(WeightsError, match="config.json: not JSON"):
        weights.read_header(path)


def test_saved_statistics_come_back_with_the_header(tmp_path, tiny_ast):
    weights.save(tiny_ast(mean=-7.5, std=3.25), tmp_path / "x.safetensors")
    header = weights.read_header(tmp_path / "x.safetensors")
    assert (header["mean"], header["std"]) == (-7.5, 3.25)


@pytest.mark.parametrize("part", ["q", "k", "v"])
def test_half_an_attention_is_refused(part, tmp_path, spread):
    path, _ = in_layout("transformers", tmp_path, spread)
    tensors = load_file(path)
    del tensors[f"audio_spectrogram_transformer.layers.1.attention.{part}_proj.weight"]
    save_file(tensors, path)
    with pytest.raises(WeightsError, match=r"blocks\.1\.attn"):
        weights.load(backbones.build("ast", **DIMS), path)


@pytest.mark.parametrize("frames", [512, 2048])
def test_weights_of_1024_frames_serve_another_length(frames, tmp_path, tiny_ast):
    weights.save(tiny_ast(frames=1024, mels=128, depth=1), tmp_path / "x.safetensors")
    dims = weights.read_header(tmp_path / "x.safetensors")["dims"] | {"frames": frames}
    backbone = weights.load(backbones.build("ast", **dims), tmp_path / "x.safetensors")
    logits = backbone(torch.randn(1, 1, frames, 128)).source_logits
    assert logits.shape == (1, 10)
    assert logits.isfinite().all()


@pytest.mark.parametrize(
    "shape", [(2, 64, 32), (2, 1, 32, 64), (2, 2, 64, 32), (2, 1, 63, 32), (64, 32)]
)
def test_an_input_of_another_shape_is_refused(shape, tiny_ast):
    with pytest.raises(ValueError, match=r"\(B, 1, 64, 32\), found " + re.escape(str(shape))):
        tiny_ast()(torch.zeros(shape))


@pytest.mark.parametrize(
    ("name", "dims", "message"),
    [
        ("asd", {}, "unknown backbone 'asd': did you mean 'ast'"),
        ("ast", {"embed_dims": 3}, "did you mean 'embed_dim'"),
        ("ast", {"embed_dim": 32, "num_heads": 5}, "5 does not divide embed_dim 32"),
        ("ast", {"frames": 8}, "8 frames x 128 bins is smaller than a patch"),
        ("ast", {"pooled_blocks": [12]}, r"pooled_blocks \[12\]; expected numbers from 1 to 11"),
        ("ast", {"pooling": "stack"}, "pooling of ast 'stack': did you mean 'stacked'"),
    ],
)
def test_impossible_dims_are_refused(name, dims, message):
    with pytest.raises(ValueError, match=message):
        backbones.build(name, **dims)


def test_a_patch_may_be_longer_in_time(tiny_ast):
    """Oracle: the patches cut by `unfold`, times the filters."""
    network = tiny_ast(patch=[16, 24], stride=[16, 20])
    assert network.grid == (2, 3)  # 32 bands, 64 frames
    x = torch.randn(1, 1, 64, 32, generator=torch.Generator().manual_seed(0))
    cut = x[0, 0].T.unfold(0, 16, 16).unfold(1, 24, 20)  # (2, 3, 16, 24)
    conv = network.patch_embed
    expected = cut.flatten(2) @ conv.weight.flatten(1).T + conv.bias
    embedded = conv(x.transpose(2, 3))[0].permute(1, 2, 0)
    assert torch.allclose(embedded, expected, atol=1e-5)
    assert network(x).embedding.shape == (1, 32)


@pytest.mark.parametrize("recomputed", [False, True])
def test_patches_are_pooled_after_the_blocks_that_are_named(recomputed, tmp_path, tiny_ast):
    network = tiny_ast(depth=3, pooled_blocks=[2, 1])
    network.grad_checkpointing = recomputed
    outputs = []
    for block in network.blocks[:2]:
        block.register_forward_hook(lambda module, x, tokens: outputs.append(tokens))
    x = torch.randn(2, 1, 64, 32)
    embedding, logits, _ = network(x)
    expected = [network.norm(network.blocks[2](outputs[1])[:, :2]).mean(dim=1)]
    for tokens in outputs:
        patches = torch.nn.functional.layer_norm(tokens[:, 2:], (32,))
        expected += [patches.mean(dim=1), patches.amax(dim=1)]
    assert embedding.shape == (2, network.embed_dim) and network.embed_dim == 5 * 32
    assert torch.allclose(embedding, torch.cat(expected, dim=1), atol=1e-5)

    weights.save(network, tmp_path / "x.safetensors")
    dims = weights.read_header(tmp_path / "x.safetensors")["dims"]
    loaded = weights.load(backbones.build("ast", **dims), tmp_path / "x.safetensors")
    assert torch.equal(loaded(x).embedding, embedding) and torch.equal(
        loaded(x).source_logits, logits
    )

    plain = weights.load(tiny_ast(depth=3), tmp_path / "x.safetensors")
    assert torch.allclose(plain(x).source_logits, logits, atol=1e-6)


@pytest.mark.parametrize("pooling", ["stacked", "blocks"])
def test_class_and_distillation_token_and_mean_patch_are_stacked(pooling, tmp_path, tiny_ast):
    network = tiny_ast(depth=3, pooled_blocks=[2], pooling=pooling)
    plain = tiny_ast(depth=3, pooled_blocks=[2])
    x = torch.randn(2, 1, 64, 32)
    outputs = []
    for block in network.blocks:
        block.register_forward_hook(lambda module, x, tokens: outputs.append(tokens))
    embedding, logits, _ = network(x)
    assert torch.allclose(logits, plain(x).source_logits, atol=1e-6)
    last = network.norm(outputs.pop())
    stacks = []
    inner = [torch.nn.functional.layer_norm(tokens, (32,)) for tokens in outputs]
    for tokens in [*inner, last]:
        stacks.append(torch.cat([tokens[:, 0], tokens[:, 1], tokens[:, 2:].mean(dim=1)], dim=1))
    if pooling == "blocks":
        assert network.n_blocks == 3 and network.embed_dim == 3 * 32
        expected = torch.stack(stacks, dim=2)
    else:
        assert network.n_blocks is None and network.embed_dim == 5 * 32
        expected = torch.cat([stacks[-1], plain(x).embedding[:, 32:]], dim=1)
    assert torch.allclose(embedding, expected, atol=1e-5)
    weights.save(network, tmp_path / "x.safetensors")
    assert weights.read_header(tmp_path / "x.safetensors")["dims"]["pooling"] == pooling


def test_patchout_keeps_the_patches_of_random_rows_and_columns(tiny_ast):
    """Oracle: the blocks on the class tokens and on the patches that were kept."""
    network = tiny_ast(mels=64, frames=128, patchout_time=0.5, patchout_freq=0.25)
    network.return_tokens()
    entered = []
    network.blocks[0].register_forward_pre_hook(lambda block, tokens: entered.append(tokens[0]))
    x = torch.randn(2, 1, 128, 64)
    complete = network(x)
    network.patchout.train()
    chosen = set()
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        tokens = network(x).tokens
        assert tokens.shape == (2, 3 * 4, 32)
        matches = (entered[0][0, 2:, None] == entered[-1][0, None, 2:]).all(dim=2)
        kept = matches.any(dim=1).reshape(4, 8)
        rows = kept.any(dim=1)
        columns = kept.any(dim=0)
        assert (rows.sum(), columns.sum()) == (3, 4)
        assert torch.equal(kept, rows[:, None] & columns)
        places = torch.cat([torch.tensor([0, 1]), 2 + kept.flatten().nonzero()[:, 0]])
        assert torch.equal(entered[-1], entered[0][:, places])
        chosen.add(tuple(kept.flatten().tolist()))
    assert len(chosen) == 2  # one for each seed
    network.eval()
    assert torch.equal(network(x).embedding, complete.embedding)


def test_patchout_that_drops_nothing_is_the_network(tiny_ast):
    network = tiny_ast(patchout_time=0.1)  # of four columns: less than one
    x = torch.randn(2, 1, 64, 32)
    torch.testing.assert_close(network.train()(x).embedding, network.eval()(x).embedding)


@pytest.mark.parametrize("share", [-0.1, 1, 1.5])
def test_other_shares_of_patchout_are_refused(share, tiny_dims):
    with pytest.raises(ValueError, match="patchout_freq .*; expected from 0 to below 1"):
        backbones.build("ast", **tiny_dims, patchout_freq=share)


@pytest.mark.parametrize("patch", [[16], [16, 16, 16], [0, 16], [16, 65], "16", 16.5])
def test_other_sizes_of_a_patch_are_refused(tiny_dims, patch):
    with pytest.raises(ValueError, match="patch"):
        backbones.build("ast", **(tiny_dims | {"patch": patch}))
