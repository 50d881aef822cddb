"""A run folder as a function of waveforms: what it computes, for any length, and whose weights it takes."""

import numpy as np
import pytest
import torch

from ast_repr import checkpoint, features, inference
from ast_repr.backbones import weights
from ast_repr.checkpoint import CheckpointError
from ast_repr.classifier import assemble
from ast_repr.reprogrammers import unet

CLASSES = ["bass", "flute", "voice"]
FEATURE = {"name": "logmel", "frames": 1024, "bins": 32}
WINDOW = 160_000  # samples in ten seconds


@pytest.fixture
def run(tmp_path, tiny_ast, spread):
    """A run folder as the trainer leaves it, and the model whose state is in it."""
    weights.save(tiny_ast(frames=1024, depth=1), tmp_path / "tiny.safetensors")
    header = weights.read_header(tmp_path / "tiny.safetensors")
    backbone = {
        "name": "ast",
        "options": header["dims"] | {"mean": header["mean"], "std": header["std"]},
        "source": "ast_tiny_synth",
        "file": str(tmp_path / "tiny.safetensors"),
        "seed": 0,
        "finetune": False,
    }
    build = {
        "norm": "backbone",
        "reprogrammer": {"name": "unet", "residual": True},
        "backbone": backbone,
        "head": {"name": "embedding"},
    }
    model = assemble(CLASSES, **build).eval()
    spread(model.reprogrammer, 1)
    torch.nn.init.normal_(model.head.linear.weight, generator=torch.Generator().manual_seed(2))
    about = {"classes": CLASSES, "feature": FEATURE, "build": build, "backbone_sha256": weights.fingerprint(model.backbone)}
    checkpoint.save(tmp_path / "run" / "best.valid.macro_f1.pt", {"learned": model.learned_state(), "epoch": 1, "about": about})
    return tmp_path / "run", model


def sound(seconds, count=2):
    return (
        np.random.default_rng(3).uniform(-0.5, 0.5, (count, round(seconds * 16_000))).astype(np.float32)
        * np.float32([[1], [0.01]])[:count]
    )


def by_hand(model, waveforms, starts):
    windows = []
    for start in starts:
        window = np.zeros((len(waveforms), WINDOW), np.float32)
        part = waveforms[:, start : start + WINDOW]
        window[:, : part.shape[1]] = part
        with torch.no_grad():
            log_mel = features.build(**FEATURE)(torch.from_numpy(window)).half().float()
            windows.append(torch.sigmoid(model(log_mel)).numpy())
    return sum(windows) / len(windows)


@pytest.mark.parametrize(
    ("seconds", "starts"), [(0.3, [0]), (10, [0]), (10.0001, [0, 2]), (20, [0, WINDOW]), (25, [0, WINDOW, 240_000])]
)
def test_any_length_gives_the_mean_over_windows_of_ten_seconds(seconds, starts, run):
    folder, model = run
    found = inference.load(folder)(sound(seconds))
    assert found.shape == (2, 3) and found.dtype == np.float32
    np.testing.assert_allclose(found, by_hand(model, sound(seconds), starts), atol=1e-6)
    assert ((found > 0) & (found < 1)).all() and np.abs(found[0] - found[1]).max() > 1e-3


def test_a_folder_and_its_checkpoint_are_the_same(run):
    folder, _ = run
    one, two = inference.load(folder), inference.load(folder / "best.valid.macro_f1.pt")
    assert one.classes == two.classes == CLASSES
    assert np.array_equal(one(sound(1)), two(sound(1)))


def test_a_waveform_does_not_depend_on_its_batch(run):
    predict = inference.load(run[0])
    together = predict(sound(1))
    for i in range(2):
        np.testing.assert_allclose(predict(sound(1)[i : i + 1]), together[i : i + 1], atol=1e-5)


def test_tensors_and_lists_are_taken_too(run):
    predict = inference.load(run[0])
    assert np.array_equal(predict(torch.from_numpy(sound(0.1))), predict(sound(0.1).tolist()))


def test_one_sample_is_enough(run):
    assert np.isfinite(inference.load(run[0])([[0.5]])).all()


@pytest.mark.parametrize("shape", [(16_000,), (0, 16_000), (2, 0), (1, 1, 16_000)])
def test_what_is_no_batch_of_waveforms_is_refused(shape, run):
    with pytest.raises(ValueError, match=r"shape \(B, N\) with at least one sample, found"):
        inference.load(run[0])(np.zeros(shape, np.float32))


def test_the_model_is_as_it_was_trained_and_in_eval_mode(run):
    folder, model = run
    found = inference.load(folder).model
    assert not any(module.training for module in found.modules())
    assert isinstance(found.reprogrammer, unet.UNet) and found.reprogrammer.residual
    assert all(torch.equal(tensor, found.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_weights_of_another_backbone_are_refused(run, tiny_ast, spread):
    folder, _ = run
    other = folder.parent / "other.safetensors"
    weights.save(spread(tiny_ast(frames=1024, depth=1), seed=5), other)
    with pytest.raises(
        weights.WeightsError, match="other.safetensors: tensors have sha256 .*the model was trained on .*pass the right file"
    ):
        inference.load(folder, backbone_file=other)
    moved = folder.parent / "moved.safetensors"
    (folder.parent / "tiny.safetensors").rename(moved)
    assert np.isfinite(inference.load(folder, backbone_file=moved)(sound(0.1))).all()


@pytest.mark.parametrize("state", [{"x": torch.zeros(3)}, {"about": {"classes": []}}, {"about": 3}])
def test_a_file_that_is_no_trained_model_is_named(state, tmp_path):
    checkpoint.save(tmp_path / "x.pt", state)
    with pytest.raises(CheckpointError, match="x.pt: not a trained model"):
        inference.load(tmp_path / "x.pt")


def test_a_folder_without_a_best_checkpoint_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="no best"):
        inference.load(tmp_path)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        inference.load(tmp_path / "nowhere.pt")
