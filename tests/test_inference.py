"""A run folder as a function of waveforms: what it computes, for any length, and whose weights it takes."""

import itertools
import os

import numpy as np
import pytest
import soundfile
import torch

from ast_repr import audio, checkpoint, features, inference
from ast_repr.backbones import weights
from ast_repr.checkpoint import CheckpointError
from ast_repr.reprogrammers import unet

CLASSES = ["bass", "flute", "voice"]
FEATURE = {"name": "logmel", "frames": 1024, "bins": 32}
WINDOW = 160_000  # samples in ten seconds


def sound(seconds, count=2):
    return (
        np.random.default_rng(3)
        .uniform(-0.5, 0.5, (count, round(seconds * 16_000)))
        .astype(np.float32)
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
    ("seconds", "starts"),
    [(0.3, [0]), (10, [0]), (10.0001, [0, 2]), (20, [0, WINDOW]), (25, [0, WINDOW, 240_000])],
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
    assert all(
        torch.equal(tensor, found.state_dict()[name]) for name, tensor in model.state_dict().items()
    )


def test_weights_of_another_backbone_are_refused(run, tiny_ast, spread):
    folder, _ = run
    other = folder.parent / "other.safetensors"
    weights.save(spread(tiny_ast(frames=1024, depth=1), seed=5), other)
    with pytest.raises(
        weights.WeightsError,
        match="other.safetensors: the backbone's tensors have sha256 .*the model was trained on .*pass the right file",
    ):
        inference.load(folder, backbone_file=other)
    moved = folder.parent / "moved.safetensors"
    (folder.parent / "tiny.safetensors").rename(moved)
    assert np.isfinite(inference.load(folder, backbone_file=moved)(sound(0.1))).all()


def test_a_model_of_features_that_come_with_the_corpus_hears_nothing(run):
    model, about = inference.restore(run[0] / "best.valid.macro_f1.pt")
    with pytest.raises(ValueError, match="trained on vggish, .*take a model trained on logmel"):
        inference.TorchPredictor(model, about | {"feature": {"name": "vggish"}})


def test_the_threshold_is_the_one_in_the_file(run):
    model, about = inference.restore(run[0] / "best.valid.macro_f1.pt")
    assert inference.TorchPredictor(model, about).threshold == 0.5
    assert inference.TorchPredictor(model, about | {"threshold": 0.3}).threshold == 0.3


@pytest.fixture
def songs(tmp_path):
    """Files of 0.3 to 31 seconds, with one in the midst that ends in NaN."""
    paths = [tmp_path / f"{i}.wav" for i in range(5)]
    for path, seconds in zip(paths, (31, 0.3, 10, 12, 24)):
        soundfile.write(
            path,
            sound(seconds)[0] * (np.nan if path.name == "3.wav" else 1),
            16_000,
            subtype="FLOAT",
        )
    return paths


def heard(predict, paths, **options):
    """{path: what was heard of it}."""
    return {
        path: list(parts)
        for path, parts in itertools.groupby(
            predict.predict_files(paths, **options), lambda one: one.path
        )
    }


def test_files_are_heard_window_by_window(run, songs):
    predict = inference.load(run[0])
    found = heard(predict, songs)
    assert list(found) == songs
    for path, parts in found.items():
        if path.name == "3.wav":
            (one,) = parts
            assert "not finite" in str(one.error) and one.probabilities is None
            continue
        waveform = audio.decode(path)
        assert [one.start_s for one in parts] == {
            "0.wav": [0, 10, 20, 21],
            "4.wav": [0, 10, 14],
        }.get(path.name, [0])
        assert parts[-1].end_s == pytest.approx(len(waveform) / 16_000)
        assert all(one.feature.shape == (1, 1024, 32) for one in parts)
        mean = np.mean([one.probabilities for one in parts], axis=0)
        np.testing.assert_allclose(mean, predict(waveform[None])[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_neither_the_batch_nor_the_neighbours_matter(device, run, songs):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    predict = inference.load(run[0], device)
    expected = heard(predict, songs, hop=110_000)
    alone = {
        path: parts for own in songs for path, parts in heard(predict, [own], hop=110_000).items()
    }
    for found in (
        heard(predict, songs, hop=110_000, batch_size=1),
        heard(predict, songs, hop=110_000, batch_size=5),
        alone,
    ):
        for path in songs:
            assert [one.start_s for one in found[path]] == [one.start_s for one in expected[path]]
            for one, other in zip(found[path], expected[path]):
                assert str(one.error) == str(other.error)
                if not one.error:
                    np.testing.assert_allclose(
                        one.probabilities, other.probabilities, rtol=0, atol=1e-5
                    )


def test_an_outdated_model_is_named(run):
    path = run[0] / "best.valid.macro_f1.pt"
    state = checkpoint.load(path)
    del state["about"]["spec"]["backbone"]["options"]
    checkpoint.save(path, state)
    with pytest.raises(CheckpointError, match="another version .*'options'.*train .*it again"):
        inference.load(path)


@pytest.mark.parametrize("state", [{"x": torch.zeros(3)}, {"about": {"classes": []}}, {"about": 3}])
def test_a_file_that_is_no_trained_model_is_named(state, tmp_path):
    checkpoint.save(tmp_path / "x.pt", state)
    with pytest.raises(CheckpointError, match="x.pt: not a trained model"):
        inference.load(tmp_path / "x.pt")


@pytest.mark.parametrize("name", ["labels.txt", "song.wav", "ast_unet"])
def test_what_can_be_no_model_is_named(name, tmp_path):
    with pytest.raises(
        ValueError, match=f"{name}: nothing there, expected a run folder, a checkpoint"
    ):
        inference.load(tmp_path / name)
    (tmp_path / name).write_text("accordion\nbanjo\n")
    with pytest.raises(
        ValueError, match=f"{name}: another kind of file, expected a run folder, a checkpoint"
    ):
        inference.load(tmp_path / name)


def test_a_folder_without_a_best_checkpoint_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="no best"):
        inference.load(tmp_path)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        inference.load(tmp_path / "nowhere.pt")


@pytest.mark.parametrize("suffix", inference.KINDS)
def test_a_pipe_is_refused_rather_than_waited_for(suffix, tmp_path):
    pipe = tmp_path / f"model{suffix}"
    os.mkfifo(pipe)
    with pytest.raises(ValueError, match="a pipe"):
        inference.load(pipe)
