"""The instruments model: its clips and their truth, calibration, and the exported folder."""

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss

import fit_instruments
from ast_repr import audio, backbones, features, inference, manifest, metrics, pretrained
from ast_repr.backbones import weights
from ast_repr.corpora import noises, sounds
from ast_repr.data import dataset, feature_store
from ast_repr.export.safetensors import content_hash
from ast_repr.heads.logistic import LogisticHead
from ast_repr.training import instrument_model, pretraining_clips
from ast_repr.training.instrument_model import CLASSES, CorpusClips, NoiseClips, RenderedClips

SHARD_CLIPS = 24


def truth_of(*names):
    """Return the truth (20,) of a clip of the sounds that CLASSES of `sounds` calls so."""
    truth = torch.zeros(1, len(sounds.CLASSES), dtype=torch.uint8)
    for name in names:
        truth[0, sounds.CLASSES.index(name)] = 1
    row = instrument_model.instruments_of(truth)[0]
    return dict(zip(CLASSES, row.tolist(), strict=True))


def test_instruments_are_derived_from_presets_and_keys():
    truth = truth_of("Clarinet", "Drum: Bass Drum 1", "Drum: Ride Cymbal 1")
    assert {name for name in truth if truth[name]} == {"clarinet", "drums", "cymbals"}
    assert not any(truth_of("Oboe", "Drum: Cowbell").values())


def test_what_a_listener_may_call_by_another_name_is_unknown():
    truth = truth_of("Acoustic Guitar (steel)")
    assert truth["guitar"] == 1 and np.isnan(truth["mandolin"]) and truth["ukulele"] == 0
    assert np.isnan(truth_of("String Ensemble 1")["violin"])
    assert truth_of("String Ensemble 1", "Violin")["violin"] == 1


@pytest.mark.parametrize("kind", sorted(noises.KINDS))
def test_sounds_without_music_are_finite_and_repeatable(kind, monkeypatch):
    monkeypatch.setattr(noises, "KINDS", {kind: noises.KINDS[kind]})
    for seed in range(5):
        sound, name = noises.draw(np.random.default_rng(seed))
        again, _ = noises.draw(np.random.default_rng(seed))
        assert name == kind and sound.shape == (160_000,) and sound.dtype == np.float32
        assert np.isfinite(sound).all() and np.abs(sound).max() < 1
        assert not audio.is_silent(sound) and np.array_equal(sound, again)


def test_speech_may_be_a_voice():
    for index in range(12):
        _, truth = NoiseClips(12, 0, "logmel")[index]
        _, kind = noises.draw(np.random.default_rng([0, index]))
        unknown = {name for name, value in zip(CLASSES, truth, strict=True) if value.isnan()}
        assert unknown == ({"voice"} if kind == "speech" else set())
        assert not truth.nan_to_num().any()


def test_calibration_gives_frequencies_at_the_prior():
    """Of held-out clips weighted to the prior, the frequency of each class is its probability."""
    rng = np.random.default_rng(0)
    present = rng.random((4000, 2)) < 0.5
    embeddings = torch.from_numpy(present + rng.normal(0, 1, present.shape)).float()
    mask = torch.ones(present.shape, dtype=torch.bool)
    batch = dataset.Batch(embeddings, torch.from_numpy(present).float(), mask)
    head = LogisticHead(n_classes=3, embed_dim=2)
    with torch.no_grad():
        head.linear.weight[:2] = torch.tensor([[5.0, 0.0], [0.0, 0.2]])  # too sure, too unsure
        head.linear.bias.copy_(torch.tensor([2.0, 0.0, -16.0]))
    absent = torch.zeros(len(present), 1)
    held_out = dataset.Batch(
        embeddings,
        torch.cat([batch.targets, absent], dim=1),
        torch.cat([mask, absent == 0], dim=1),
    )
    head.calibrate(held_out, prior=0.1)
    # Of two normal distributions a deviation apart, the log odds are x - 1/2 + those of the prior.
    expected = np.log(0.1 / 0.9) - 0.5
    assert head.linear.weight[0, 0].item() == pytest.approx(1.0, abs=0.1)
    assert head.linear.weight[1, 1].item() == pytest.approx(1.0, abs=0.1)
    np.testing.assert_allclose(head.linear.bias[:2].numpy(), expected, atol=0.1)
    assert not head.linear.weight[2].any() and head.linear.bias[2] == -16


def test_the_calibration_error_is_that_of_the_bins():
    rng = np.random.default_rng(0)
    scores = rng.random(50_000)
    truth = rng.random(50_000) < scores
    assert metrics.expected_calibration_error(truth, scores) < 0.01
    assert metrics.expected_calibration_error(truth, np.full(50_000, 0.9)) == pytest.approx(
        0.9 - truth.mean()
    )
    constant = np.full(50_000, truth.mean())
    assert metrics.expected_calibration_error(truth, constant) == pytest.approx(0, abs=1e-9)
    assert brier_score_loss(truth, scores) < brier_score_loss(truth, constant)


def write_shard(folder, made_from, embedding):
    """Write a shard of random clips with these outputs of the teacher."""
    generator = torch.Generator().manual_seed(0)
    log_mel = torch.randn(SHARD_CLIPS, pretraining_clips.FRAMES, 128, generator=generator)
    tensors = {
        "log_mel": log_mel.half(),
        "truth": (torch.rand(SHARD_CLIPS, 175, generator=generator) < 0.1).byte(),
        "embedding": embedding,
        "tags": torch.zeros(SHARD_CLIPS, 5),
    }
    header = {"made_from": made_from, "sha256": content_hash(made_from, tensors)}
    folder.mkdir(parents=True)
    path = folder / "00000.safetensors"
    path.write_bytes(pretraining_clips.serialise(tensors, header))


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Folder of pre-training with a shard of random clips in each split."""
    folder = tmp_path_factory.mktemp("shards")
    for split in ("train", "valid"):
        write_shard(folder / split, split, torch.zeros(SHARD_CLIPS, 12))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A prepared corpus of random log-mels that knows its truth."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    clips = []
    for number in range(30):
        split = ("train", "valid", "test")[number % 3]
        truth = dict(zip(CLASSES, rng.integers(0, 2, len(CLASSES)).tolist(), strict=True))
        labels = {name: float(value) for name, value in truth.items()}
        clips.append(manifest.Clip(f"{number}", f"{number}", "x", 0.0, split, labels, truth=truth))
    manifest.write(folder, clips, CLASSES)
    feature = features.build("logmel")
    values = rng.normal(-6, 4, (len(clips), *feature.shape)).astype(np.float16)
    values[:, :, pretraining_clips.FRAMES :] = 0  # as the feature pads
    identities = manifest.identities(clips, "logmel")
    feature_store.write_shard(folder / "features" / "logmel", 0, values, identities, feature.spec())
    return folder


def test_clips_have_the_frames_of_ten_seconds(shards, data):
    for clips in (
        RenderedClips(shards / "train"),
        CorpusClips(data, "test", "logmel"),
        NoiseClips(1, 0, "logmel"),
    ):
        log_mel, truth = clips[0]
        assert log_mel.shape == (pretraining_clips.FRAMES, 128) and log_mel.dtype == torch.float32
        assert truth.shape == (20,)
    with pytest.raises(ValueError, match="missing or damaged"):
        RenderedClips(shards / "elsewhere")


def test_an_instrument_that_a_corpus_lacks_is_unknown(data, tmp_path):
    clips, _ = manifest.read(data)
    fewer = [
        manifest.Clip(**{**vars(clip), "labels": {"bass": 1.0}, "truth": {"bass": 1}})
        for clip in clips
    ]
    manifest.write(tmp_path, fewer, ["bass"])
    (tmp_path / "features").symlink_to(data / "features")
    truth = CorpusClips(tmp_path, "test", "logmel").truth
    assert (truth[:, CLASSES.index("bass")] == 1).all() and truth.isnan().sum() == 10 * 19


def test_without_a_truth_a_corpus_is_refused(data, tmp_path):
    clips, _ = manifest.read(data)
    manifest.write(
        tmp_path, [manifest.Clip(**{**vars(clip), "truth": {}}) for clip in clips], CLASSES
    )
    (tmp_path / "features").symlink_to(data / "features")
    with pytest.raises(ValueError, match="no clip of the split test has a truth"):
        CorpusClips(tmp_path, "test", "logmel")


def test_the_script_writes_a_model_that_predicts(
    shards, data, backbone_file, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(instrument_model, "NOISES", 8)
    monkeypatch.setattr(fit_instruments, "HELD_OUT_NOISES", 8)
    out = tmp_path / "instruments"
    options = ["--clips", shards, "--data", data, "--out", out, "--backbone-file", backbone_file]
    fit_instruments.main(fit_instruments.parse().parse_args([*map(str, options), "--nj", "1"]))
    assert "names instruments from" in capsys.readouterr().out
    predictor = inference.load(out, backbone_file=backbone_file)
    assert predictor.classes == CLASSES and "rendered music" in predictor.about["summary"]
    probabilities = predictor(np.random.default_rng(0).uniform(-0.5, 0.5, (1, 16_000)))
    assert probabilities.shape == (1, 20) and (probabilities > 0).all()
    assert not predictor(np.zeros((1, 16_000))).any()
    card = (out / "README.md").read_text()
    assert predictor.about["summary"] in card
    assert all(f"| {name} |" in card for name in CLASSES)


def test_a_model_on_musicnn_is_fitted_on_stored_embeddings(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(instrument_model, "NOISES", 4)
    monkeypatch.setattr(fit_instruments, "HELD_OUT_NOISES", 4)
    weights_file = tmp_path / "musicnn_msd.safetensors"
    torch.manual_seed(0)
    weights.save(backbones.build("musicnn"), weights_file, [f"tag {n}" for n in range(50)])
    shards = tmp_path / "shards"
    generator = torch.Generator().manual_seed(0)
    for split in ("train", "valid"):
        write_shard(shards / split, split, torch.randn(SHARD_CLIPS, 1506, generator=generator))
    clips, _ = manifest.read(data)
    feature = features.build("musicnn_mel", frames=640)
    values = np.random.default_rng(0).uniform(0, 4, (len(clips), *feature.shape))
    corpus = tmp_path / "data"
    manifest.write(corpus, clips, CLASSES)
    feature_store.write_shard(
        corpus / "features" / "musicnn_mel",
        0,
        values.astype(np.float16),
        manifest.identities(clips, "musicnn_mel"),
        feature.spec(),
    )
    out = tmp_path / "instruments_musicnn"
    options = ["--backbone", "musicnn_msd", "--backbone-file", weights_file, "--clips", shards]
    options += ["--data", corpus, "--out", out, "--nj", "1"]
    fit_instruments.main(fit_instruments.parse().parse_args(list(map(str, options))))
    assert f"{SHARD_CLIPS + 3 * 10 + 4} clips to fit" in capsys.readouterr().out
    predictor = inference.load(out, backbone_file=weights_file)
    assert predictor(np.random.default_rng(0).uniform(-0.5, 0.5, (1, 16_000))).shape == (1, 20)
    card = (out / "README.md").read_text()
    assert 'inference.load("instruments_musicnn")' in card and "augmented" not in card


def test_embeddings_are_those_that_predict_computes(data, backbone_file):
    model = fit_instruments.build("ast_tiny_synth", backbone_file)[0]
    clips = CorpusClips(data, "test", "logmel")
    expected = model.head_input(torch.from_numpy(clips.store.read(clips.names)).float())
    batch = instrument_model.embed(model, clips, augmented=False)
    np.testing.assert_allclose(batch.features, expected, atol=1e-5)
    assert batch.mask.all() and torch.equal(batch.targets, clips.truth)
    augmented = instrument_model.embed(model, clips, augmented=True)
    assert augmented.features.shape == batch.features.shape
    assert augmented.targets.sum() > batch.targets.sum()  # of mixtures


def test_the_shipped_model_names_nothing_in_silence_and_little_in_noise():
    model = inference.load()
    assert not model(np.zeros((1, 160_000), np.float32)).any()
    sounds_without_music = [noises.draw(np.random.default_rng([2, seed]))[0] for seed in range(24)]
    named = model(np.stack(sounds_without_music)) >= model.threshold
    assert named.sum() <= 3


def test_a_shipped_model_is_loaded_by_its_name():
    assert inference.load("instruments_ast").about == inference.load().about


def test_a_folder_with_its_name_does_not_replace_the_default_model(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "instruments_ast").mkdir()
    assert inference.load().classes == CLASSES


def test_the_shipped_model_on_musicnn_asks_for_its_backbone(monkeypatch, tmp_path):
    musicnn = pretrained.find("musicnn_msd")
    monkeypatch.setattr(type(musicnn), "path", tmp_path / "musicnn.safetensors")

    def fail(self, folder):
        raise RuntimeError("no connection")

    monkeypatch.setattr(type(musicnn), "_download_wheel", fail)
    with pytest.raises(RuntimeError, match="no connection"):
        inference.load("instruments_musicnn")
