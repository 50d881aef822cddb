"""Attention over time: weights of heads, segments of backbones, and what is written and drawn."""

import json

import numpy as np
import pytest
import soundfile
import torch

from ast_repr import backbones, features, heads, inference
from ast_repr.backbones import Output
from ast_repr.classifier import build_model
from ast_repr.inference import FilePrediction
from ast_repr.viewer import predictions, timeline

CLASSES = ["bass", "flute", "voice"]
VIEW = predictions.DisplayOptions(CLASSES, 0.5, timeline=True)
RATE = 16_000


def test_weights_of_attention_add_up_to_one_and_give_the_logits(spread):
    head = spread(heads.build("attention", n_classes=3, embed_dim=8))
    frames = torch.randn(2, 8, 5, generator=torch.Generator().manual_seed(0))
    weights = head.attention_weights(Output(frames, None))
    assert weights.shape == (2, 3, 5) and weights.std(dim=2).min() > 1e-3
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(2, 3))
    probabilities = (weights * head.classifier(frames).sigmoid()).sum(dim=2)
    torch.testing.assert_close(head(Output(frames, None)), torch.logit(probabilities))


def test_weights_of_attentive_pooling_add_up_to_one_and_give_the_logits(spread):
    head = spread(heads.build("attentive_pooling", n_classes=3, token_dim=8))
    tokens = torch.randn(2, 12, 8, generator=torch.Generator().manual_seed(0))
    weights = head.attention_weights(Output(None, None, tokens))
    assert weights.shape == (2, 3, 12) and weights.std(dim=2).min() > 1e-4
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(2, 3))
    logits = torch.einsum("bkn,bnk->bk", weights, head.linear(tokens))
    torch.testing.assert_close(head(Output(None, None, tokens)), logits)


SEGMENTED = {
    "vggish_convnet": {"frames": 300, "mels": 16, "width": 1},
    "frame_network": {"frames": 95, "mels": 4, "steps": 10},
}


@pytest.mark.parametrize("name", SEGMENTED)
def test_a_change_within_the_frames_of_a_segment_changes_its_embedding_alone(name, spread):
    backbone = spread(backbones.build(name, **SEGMENTED[name])).eval()
    size = SEGMENTED[name]
    x = torch.randn(1, 1, size["frames"], size["mels"], generator=torch.Generator().manual_seed(0))
    before = backbone(x).embedding[0]
    assert len(backbone.segments) == before.shape[1]
    for number, (first, last) in enumerate(backbone.segments):
        changed = x.clone()
        changed[:, :, (first + last) // 2] += 3.0
        differs = (backbone(changed).embedding[0] != before).any(dim=0)
        assert differs.nonzero().flatten().tolist() == [number]


@pytest.mark.parametrize(
    ("name", "frames"),
    [
        ("cp_resnet", 16),
        ("cp_resnet", 31),
        ("cp_resnet", 100),
        ("mobile_fcn", 96),
        ("mobile_fcn", 300),
    ],
)
def test_a_network_that_pools_has_a_segment_for_each_step_of_its_embedding(name, frames):
    backbone = backbones.build(name, frames=frames, mels=96, width=1).eval()
    embedding = backbone(torch.zeros(1, 1, frames, 96)).embedding
    assert len(backbone.segments) == embedding.shape[2]


def test_segments_of_a_transformer_are_its_columns_of_patches(tiny_ast):
    backbone = tiny_ast(frames=64, mels=32, patch=16, stride=10)
    assert backbone.segments == [(0, 16), (10, 26), (20, 36), (30, 46), (40, 56)]
    assert len(backbone.segments) == backbone.grid[1]
    averaged = tiny_ast(frames=64, mels=32, patch=16, stride=10, steps=2)
    assert averaged.segments == [(0, 36), (20, 56)]


def test_weights_of_patches_are_added_up_over_frequency():
    model = build_model(
        CLASSES,
        norm="none",
        reprogrammer={"name": "none"},
        backbone={
            "name": "ast",
            "options": {"frames": 64, "mels": 32, "embed_dim": 8, "num_heads": 2, "depth": 1},
            "file": None,
            "seed": 0,
            "finetune": False,
        },
        head={"name": "attentive_pooling"},
    )
    rows, columns = model.backbone.grid
    tokens = torch.zeros(1, rows * columns, 8)
    torch.nn.init.ones_(model.head.query.weight)
    tokens[0, columns + 2] = 1e4  # the second row, the third column
    attention = model.attention(Output(None, None, tokens))
    assert attention.shape == (1, 3, columns) and (attention[0, :, 2] == 1).all()


@pytest.fixture
def predictor():
    """A network on patches of a second under an attention head, with random weights."""
    options = {"frames": 998, "mels": 64, "width": 4}
    spec = {
        "norm": "none",
        "reprogrammer": {"name": "none"},
        "backbone": {
            "name": "vggish_convnet",
            "options": options,
            "source": "none",
            "file": None,
            "seed": 0,
            "finetune": True,
        },
        "head": {"name": "attention"},
    }
    torch.manual_seed(0)
    model = build_model(CLASSES, **spec).eval()
    torch.nn.init.normal_(model.head.attention.weight, std=5.0)
    about = {
        "classes": CLASSES,
        "feature": {"name": "logmel_vggish"},
        "spec": spec,
        "backbone_sha256": "",
    }
    return inference.TorchPredictor(model, about)


@pytest.fixture
def song(tmp_path):
    """Twenty-five seconds of noise, each of another level."""
    path = tmp_path / "song.wav"
    levels = np.random.default_rng(0).uniform(0, 0.5, (25, 1)) ** 2
    soundfile.write(
        path, (levels * np.random.default_rng(1).normal(0, 1, (25, RATE))).ravel(), RATE
    )
    return path


def test_attention_of_a_file_is_that_of_its_windows(predictor, song):
    windows = list(predictor.predict_windows(song))
    (prediction,) = predictor.predict(song, batch_size=2)
    assert prediction.attention.shape == (3, 3, 10)
    np.testing.assert_allclose(prediction.attention.sum(axis=2), 1, atol=1e-6)
    assert prediction.attention.std(axis=2).max() > 1e-3
    for window, attention in zip(windows, prediction.attention, strict=True):
        with torch.no_grad():
            output = predictor.model.encode(torch.from_numpy(window.feature)[None])
            expected = predictor.model.head.attention_weights(output)[0]
        np.testing.assert_allclose(attention, expected, atol=1e-6)
    starts = 0.96 * np.arange(10)
    np.testing.assert_allclose(prediction.segments, np.stack([starts, starts + 0.96], axis=1))


def test_a_model_without_attention_has_none(run, song):
    model = inference.load(run[0])
    (prediction,) = model.predict(song)
    assert model.segments is None and prediction.attention is None
    assert "attention" not in predictions.record(prediction, VIEW)["timeline"][0]


def test_json_has_the_weights_of_each_segment_in_seconds_of_the_file(predictor, song):
    (prediction,) = predictor.predict(song)
    record = json.loads("".join(predictions.jsonl([prediction], VIEW)))
    window = record["timeline"][2]
    assert window["start_s"] == 15
    segment = window["attention"][3]
    assert (segment["start_s"], segment["end_s"]) == (17.88, 18.84)
    expected = dict(zip(CLASSES, prediction.attention[2, :, 3].round(6).tolist(), strict=True))
    assert segment["weights"] == pytest.approx(expected, abs=1e-6)
    short = predictions.DisplayOptions(CLASSES, 0.5)
    assert "timeline" not in predictions.record(prediction, short)


def drawn_song():
    """Two overlapping windows of two segments, for two classes."""
    return FilePrediction(
        "song.wav",
        seconds=6.0,
        times=np.array([[0.0, 4.0], [2.0, 6.0]]),
        timeline=np.array([[0.8, 0.4], [0.6, 0.2]]),
        probabilities=np.array([0.7, 0.3]),
        silent=np.array([False, False]),
        attention=np.array([[[0.5, 0.5], [0.2, 0.8]], [[0.75, 0.25], [0.5, 0.5]]]),
        segments=np.array([[0.0, 2.0], [2.0, 4.0]]),
    )


def test_a_segment_has_the_probability_of_its_window_times_its_attention():
    borders, colours = timeline.attended(drawn_song())
    middles = (borders[1:] + borders[:-1]) / 2
    expected = {1.0: [0.8, 0.1], 2.5: [0.8, 0.4], 3.5: [0.6, 0.2], 5.0: [0.2, 0.2]}
    for second, values in expected.items():
        np.testing.assert_allclose(colours[np.abs(middles - second).argmin()], values)


def test_the_figure_shows_probability_times_attention():
    view = predictions.DisplayOptions(["bass", "flute"], 0.5)
    log_mel = timeline.LongLogMel("logmel_vggish")
    log_mel.add(0, 6, np.random.default_rng(0).normal(size=(598, 64)))
    figure = timeline.draw(drawn_song(), view, log_mel)
    (mesh,) = figure.axes[0].collections
    colours = timeline.attended(drawn_song())[1]
    np.testing.assert_array_equal(np.asarray(mesh.get_array()).reshape(2, -1), colours.T)
    assert features.build("logmel_vggish").frames_per_second == log_mel.rate
