"""Trained models as functions of waveforms and files; the weights of their backbones."""

import os

import numpy as np
import pytest
import soundfile
import torch

from ast_repr import audio, checkpoint, devices, features, inference
from ast_repr.backbones import weights
from ast_repr.checkpoint import CheckpointError
from ast_repr.classifier import HeadOnlyModel
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


def feature_of(waveforms):
    """The log-mel of at most ten seconds, as the store keeps it."""
    padded = np.pad(waveforms, [(0, 0), (0, WINDOW - waveforms.shape[1])])
    return features.build(**FEATURE)(torch.from_numpy(padded)).half().float()


@torch.no_grad()
def by_hand(model, waveforms, starts):
    windows = []
    for start in starts:
        log_mel = feature_of(waveforms[:, start : start + WINDOW])
        windows.append(torch.sigmoid(model(log_mel)).numpy())
    return sum(windows) / len(windows)


@pytest.mark.parametrize(
    ("seconds", "starts"),
    [(0.3, [0]), (10, [0]), (10.0001, [0, 2]), (20, [0, WINDOW]), (25, [0, WINDOW, 240_000])],
)
def test_any_length_gives_the_mean_over_windows_of_ten_seconds(seconds, starts, run):
    folder, model = run
    probabilities = inference.load(folder)(sound(seconds))
    assert probabilities.shape == (2, 3) and probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, by_hand(model, sound(seconds), starts), atol=1e-6)
    assert np.abs(probabilities[0] - probabilities[1]).max() > 1e-3


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
def test_waveforms_of_another_shape_are_refused(shape, run):
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
        match="other.safetensors: .* sha256 .*trained on",
    ):
        inference.load(folder, backbone_file=other)
    moved = folder.parent / "moved.safetensors"
    (folder.parent / "tiny.safetensors").rename(moved)
    assert np.isfinite(inference.load(folder, backbone_file=moved)(sound(0.1))).all()


def test_a_model_of_features_that_come_with_the_corpus_takes_no_audio(run):
    model, about = inference.restore(run[0] / "best.valid.macro_f1.pt")
    about["feature"] = {"name": "vggish"}
    about["spec"]["backbone"]["options"] |= {"frames": 10, "mels": 128}
    with pytest.raises(ValueError, match="trained on vggish, .*take a model trained on logmel"):
        inference.TorchPredictor(model, about)


def test_the_threshold_is_the_one_in_the_file(run):
    model, about = inference.restore(run[0] / "best.valid.macro_f1.pt")
    assert inference.TorchPredictor(model, about).threshold == 0.5
    assert inference.TorchPredictor(model, about | {"threshold": 0.3}).threshold == 0.3
    normalised = inference.TorchPredictor(model, about | {"aggregate": "normalised_sum"})
    assert (normalised(np.full((2, 9), 0.1, np.float32)).max(axis=1) == 1).all()


def test_auto_precision_is_bfloat16_if_the_device_computes_in_it(run, monkeypatch):
    expected = inference.load(run[0])(sound(1))
    for has_bf16, precision in ((False, "float32"), (True, "bfloat16")):
        monkeypatch.setattr(devices, "has_bf16", lambda device, has=has_bf16: has)
        assert inference.load(run[0]).precision == "float32"
        model = inference.load(run[0], precision="auto")
        assert model.precision == precision
        change = np.abs(model(sound(1)) - expected).max()
        assert change < 0.05 and (change > 0) == has_bf16


@pytest.fixture
def songs(tmp_path):
    """Files of 0.3 to 31 seconds, one of which ends in NaN."""
    paths = [tmp_path / f"{i}.wav" for i in range(5)]
    for path, seconds in zip(paths, (31, 0.3, 10, 12, 24), strict=True):
        soundfile.write(
            path,
            sound(seconds)[0] * (np.nan if path.name == "3.wav" else 1),
            16_000,
            subtype="FLOAT",
        )
    return paths


def windows_of(predictor, paths, **options):
    """{path: its WindowPredictions}."""
    windows = {path: [] for path in paths}
    for window in predictor.predict_windows(paths, **options):
        windows[window.path].append(window)
    return windows


def test_files_are_predicted_window_by_window(run, songs):
    predictor = inference.load(run[0])
    found = windows_of(predictor, songs)
    starts = {"0.wav": [0, 10, 20, 21], "4.wav": [0, 10, 14]}
    for path, windows in found.items():
        if path.name == "3.wav":
            (window,) = windows
            assert "not finite" in str(window.error) and window.probabilities is None
            continue
        waveform = audio.decode(path)
        assert [window.start_s for window in windows] == starts.get(path.name, [0])
        assert windows[-1].end_s == pytest.approx(len(waveform) / 16_000)
        assert all(window.feature.shape == (1, 1024, 32) for window in windows)
        mean = np.mean([window.probabilities for window in windows], axis=0)
        np.testing.assert_allclose(mean, predictor(waveform[None])[0], rtol=0, atol=1e-6)


def test_a_file_prediction_combines_its_windows(run, songs):
    predictor = inference.load(run[0])
    windows = windows_of(predictor, songs)
    seen = []
    predictions = list(predictor.predict(songs, aggregate="max", on_window=seen.append))
    assert [prediction.path for prediction in predictions] == list(map(str, songs))
    assert [window.path for window in seen] == [
        path for path in songs for window in windows[path] if window.error is None
    ]
    for path, prediction in zip(songs, predictions, strict=True):
        if path.name == "3.wav":
            assert "not finite" in prediction.error and prediction.probabilities is None
            continue
        timeline = np.array([window.probabilities for window in windows[path]])
        assert prediction.seconds == windows[path][-1].end_s
        np.testing.assert_array_equal(prediction.timeline, timeline)
        np.testing.assert_array_equal(prediction.probabilities, timeline.max(axis=0))


def test_a_path_that_is_given_twice_is_predicted_twice(run, songs):
    model = inference.load(run[0])
    first, second = model.predict([songs[1], songs[1]])
    assert first.path == second.path and len(first.times) == len(second.times) == 1
    for path in (songs[1], str(songs[1])):
        (alone,) = model.predict(path)
        assert alone.path == first.path


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_neither_the_batch_nor_the_neighbours_matter(device, run, songs):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    predictor = inference.load(run[0], device)
    expected = windows_of(predictor, songs, hop_s=6.875)
    alone = {}
    for song in songs:
        alone |= windows_of(predictor, [song], hop_s=6.875)
    others = [windows_of(predictor, songs, hop_s=6.875, batch_size=size) for size in (1, 5)]
    for found in (*others, alone):
        for song in songs:
            for window, other in zip(found[song], expected[song], strict=True):
                assert (window.start_s, str(window.error)) == (other.start_s, str(other.error))
                if window.error is None:
                    np.testing.assert_allclose(
                        window.probabilities, other.probabilities, rtol=0, atol=1e-5
                    )


def test_embeddings_are_those_of_the_reprogrammed_input(run):
    folder, model = run
    predictor = inference.load(folder)
    embeddings = predictor.embed(sound(1))
    expected = model.head_input(feature_of(sound(1))).numpy()
    np.testing.assert_allclose(embeddings, expected, atol=1e-5)
    with torch.no_grad():
        probabilities = HeadOnlyModel(model)(torch.from_numpy(embeddings)).sigmoid()
    np.testing.assert_allclose(probabilities, predictor(sound(1)), atol=1e-5)
    assert predictor.embed(sound(21)).shape == (2, 32)


def test_the_input_is_shown_before_and_after_the_reprogrammer(run):
    folder, model = run
    before, after = inference.load(folder).reprogram(sound(1))
    with torch.no_grad():
        np.testing.assert_array_equal(before, model.normalise(feature_of(sound(1))).numpy())
        expected = model.reprogrammer(torch.from_numpy(before)).numpy()
    np.testing.assert_allclose(after, expected, atol=1e-6)
    with pytest.raises(ValueError, match="160000"):
        inference.load(folder).reprogram(sound(10.001))


def test_the_shipped_model_is_loaded_without_a_path():
    model = inference.load()
    assert "guitar" in model.classes and len(model.classes) == 20
    assert model(sound(1)).shape == (2, 20)
    assert model.about["run"]["conf"] == "instruments"


def test_an_outdated_model_is_named(run):
    path = run[0] / "best.valid.macro_f1.pt"
    state = checkpoint.load(path)
    del state["about"]["spec"]["backbone"]["options"]
    checkpoint.save(path, state)
    message = "another version .*options: missing.*train .*it again"
    with pytest.raises(CheckpointError, match=message):
        inference.load(path)


@pytest.mark.parametrize("state", [{"x": torch.zeros(3)}, {"about": {"classes": []}}, {"about": 3}])
def test_a_file_that_is_no_trained_model_is_named(state, tmp_path):
    checkpoint.save(tmp_path / "x.pt", state)
    with pytest.raises(CheckpointError, match="x.pt: not a trained model"):
        inference.load(tmp_path / "x.pt")


@pytest.mark.parametrize("name", ["labels.txt", "song.wav", "ast_unet"])
def test_a_path_that_is_no_model_is_named(name, tmp_path):
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
    with pytest.raises(FileNotFoundError, match="no best"):
        inference.load(tmp_path)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        inference.load(tmp_path / "nowhere.pt")


@pytest.mark.parametrize("suffix", inference.SUFFIXES)
def test_a_pipe_is_refused_rather_than_waited_for(suffix, tmp_path):
    pipe = tmp_path / f"model{suffix}"
    os.mkfifo(pipe)
    with pytest.raises(ValueError, match="a pipe"):
        inference.load(pipe)


@pytest.mark.parametrize("suffix", inference.SUFFIXES)
def test_a_git_lfs_pointer_is_no_model(suffix, tmp_path):
    pointer = tmp_path / f"model{suffix}"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 9\n")
    with pytest.raises(ValueError, match=f"model{suffix}: a Git LFS pointer.*git lfs pull"):
        inference.load(pointer)
