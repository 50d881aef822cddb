"""Pre-training: rendered clips and their truth, shards, augmentation, resuming, the recipe."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from helpers import start, wait_until
from torch.nn import functional

import pretrain
from ast_repr import backbones, features
from ast_repr.backbones import weights
from ast_repr.classifier import multiply_accumulates
from ast_repr.corpora import arrangement, songs, soundfont, sounds
from ast_repr.training import distillation, pretraining_clips
from ast_repr.training.distillation import Plan, Pretraining, Student

SMALL = Path(__file__).parent / "faults" / "small_pretrain.py"
SHARD_CLIPS = 3


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Settings with pretty_midi's soundfont and a random teacher."""
    teacher = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    weights.save(backbones.build("musicnn"), teacher, [f"tag {number}" for number in range(50)])
    return pretraining_clips.Settings((soundfont.default_soundfont(),), teacher, 0, SHARD_CLIPS)


@pytest.fixture(scope="module")
def folder(settings, tmp_path_factory):
    """A folder with two rendered shards."""
    folder = tmp_path_factory.mktemp("clips")
    for index in range(2):
        pretraining_clips._render_shard((folder, settings, settings.identity(), index))
    return folder


def random_clips(count, seed):
    """Clips in memory: noise, with random targets."""
    generator = torch.Generator().manual_seed(seed)
    clips = pretraining_clips.Clips.__new__(pretraining_clips.Clips)
    clips.identity = f"seed {seed}, {count} clips"
    clips.shard_clips = count
    clips._log_mels = [torch.randn(count, 64, 32, generator=generator)]
    clips.truth = (torch.rand(count, 175, generator=generator) < 0.1).to(torch.int8)
    clips.embedding = torch.randn(count, 12, generator=generator)
    clips.tags = torch.rand(count, 5, generator=generator)
    return clips


@pytest.fixture
def training(tmp_path, tiny_ast):
    """(epochs, checkpoint_s) -> a Pretraining of a tiny AST in tmp_path."""

    def make(epochs=3, checkpoint_s=1e9, bf16=False):
        train = random_clips(17, seed=0)
        torch.manual_seed(0)
        student = Student(tiny_ast(frames=70, n_source=175), train)
        plan = Plan(epochs=epochs, batch_size=4, lr=1e-3)
        valid = random_clips(8, seed=1)
        return Pretraining(student, train, valid, plan, tmp_path, checkpoint_s, bf16)

    return make


def test_the_network_is_small_and_costs_half(tmp_path):
    network = backbones.build("ast", **pretrain.DIMS)
    assert multiply_accumulates(network, (1, 1024, 128)) <= 1.71e9 / 2
    path = tmp_path / "network.safetensors"
    weights.save(network, path, sounds.CLASSES, torch.float16)
    assert path.stat().st_size <= 12e6
    header = weights.read_header(path)
    loaded = backbones.build("ast", mean=header["mean"], std=header["std"], **header["dims"])
    weights.load(loaded, path)
    for name, tensor in loaded.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, network.state_dict()[name].half().float())


def test_the_same_generator_renders_the_same_clips():
    def render(seed):
        renderer = sounds.Renderer([soundfont.default_soundfont()], np.random.default_rng(seed))
        return [renderer.clip() for _ in range(2)]

    first = render(5)
    for (waveform, truth), (again, same) in zip(first, render(5), strict=True):
        assert waveform.shape == (160_000,) and waveform.dtype == np.float32
        assert np.isfinite(waveform).all() and 0.01 < np.abs(waveform).max() < 1.2
        assert truth.any() and truth.shape == (175,)
        assert np.array_equal(waveform, again) and np.array_equal(truth, same)
    assert not np.array_equal(first[0][0], render(6)[0][0])


def test_the_preset_that_is_rendered_by_chance_is_never_drawn():
    renderer = sounds.Renderer([soundfont.default_soundfont()], np.random.default_rng(0))
    drawn = set()
    for _ in range(3_000):
        drawn.update(renderer._draw_programs())
    assert drawn == {None, *range(128)} - {soundfont.UNSTABLE_PRESET}


@pytest.mark.parametrize("program", [*range(0, 128, 8), None])
def test_notes_are_playable(program):
    for seed in range(40):
        rng = np.random.default_rng(seed)
        bars = arrangement.harmony(rng, 3, 240 / rng.uniform(60, 160), 10)
        for onset, length, pitch, velocity in sounds._notes(rng, program, bars, 3):
            assert 0 <= onset < 10 and length > 0 and 1 <= velocity <= 127
            if program is None:
                assert pitch in sounds.DRUM_KEYS
            else:
                assert 24 <= pitch <= soundfont.MAX_PITCH


def test_a_clip_contains_what_its_truth_says(monkeypatch):
    """The parts that are rendered, noted by a stub of the renderer, are those of the truth."""
    rendered = []

    def note(program, notes, seconds, synthesizer):
        keys = {pitch for _, _, pitch, _ in notes}
        rendered.append((program, keys))
        return np.ones(round(seconds * soundfont.RENDER_RATE), np.float32)

    monkeypatch.setattr(sounds, "render", note)
    renderer = sounds.Renderer([soundfont.default_soundfont()], np.random.default_rng(0))
    for _ in range(20):
        rendered.clear()
        expected = set()
        _, truth = renderer.clip()
        for program, keys in rendered:
            if program is None:
                expected |= {
                    f"Drum: {sounds.pretty_midi.note_number_to_drum_name(k)}" for k in keys
                }
            else:
                expected.add(sounds.pretty_midi.program_to_instrument_name(program))
        assert {sounds.CLASSES[index] for index in np.flatnonzero(truth)} == expected


def test_shards_hold_the_teachers_outputs(folder, settings):
    clips = pretraining_clips.Clips(folder, settings, 2)
    assert len(clips) == 2 * SHARD_CLIPS
    batch = clips.batch([4, 0])
    assert batch.log_mel.shape == (2, pretraining_clips.FRAMES, 128)
    assert batch.truth.shape == (2, 175)
    renderer = sounds.Renderer(settings.soundfonts, np.random.default_rng([0, 0]))
    waveform, truth = renderer.clip()
    assert torch.equal(batch.truth[1], torch.from_numpy(truth).float())
    teacher = pretraining_clips.load_teacher(settings.teacher)
    mel = features.build("musicnn_mel")
    output = teacher((mel(torch.from_numpy(waveform)[None]) - teacher.mean) / (2 * teacher.std))
    assert torch.allclose(batch.embedding[1], output.embedding[0], rtol=2e-3, atol=2e-3)
    assert torch.allclose(batch.tags[1], output.source_logits[0].sigmoid(), atol=1e-3)


@pytest.mark.slow
def test_only_missing_shards_are_rendered(folder, settings):
    before = (folder / "00000.safetensors").stat().st_ino
    (folder / "00001.safetensors").unlink()
    assert pretraining_clips.missing(folder, 2) == [1]
    pretraining_clips.render(folder, settings, shards=2, nj=1)
    pretraining_clips.Clips(folder, settings, 2)
    assert (folder / "00000.safetensors").stat().st_ino == before


def song(path, seconds, hz, rate=44_100):
    time = np.arange(round(seconds * rate)) / rate
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * hz * time), rate)


def test_files_that_last_long_enough_are_songs(tmp_path):
    with pytest.raises(ValueError, match="no audio file of at least 20 s"):
        songs.find(tmp_path)
    (tmp_path / "album").mkdir()
    song(tmp_path / "album" / "one.ogg", 21, 440)
    song(tmp_path / "effect.wav", 5, 440)
    soundfile.write(tmp_path / "silence.wav", np.zeros(30 * 16_000), 16_000)
    (tmp_path / "cover.txt").write_text("not audio")
    assert songs.find(tmp_path) == (tmp_path / "album" / "one.ogg",)


def test_excerpts_are_songs_at_another_speed_with_noise(tmp_path, monkeypatch):
    monkeypatch.setattr(songs, "MIXED_SHARE", 0)
    song(tmp_path / "a.wav", 30, 1000)
    excerpts = songs.Excerpts([tmp_path / "a.wav"], 3, np.random.default_rng(0))
    again = songs.Excerpts([tmp_path / "a.wav"], 3, np.random.default_rng(0))
    heights = set()
    for _ in range(3 * songs.EXCERPTS_PER_VISIT):
        waveform, truth = excerpts.clip()
        assert waveform.shape == (160_000,) and waveform.dtype == np.float32
        assert np.array_equal(waveform, again.clip()[0])
        assert (truth == songs.UNKNOWN).all() and truth.shape == (3,)
        spectrum = np.abs(np.fft.rfft(waveform))
        heights.add(spectrum.argmax() / 10)
        floor_db = 20 * np.log10(np.median(spectrum) / spectrum.max())
        assert -130 < floor_db < -60
    assert len(heights) == 3  # one speed per visit of the song
    semitones = 12 * np.log2(np.array(sorted(heights)) / 1000)
    assert np.abs(semitones).max() <= songs.SEMITONES + 0.1


def test_a_silent_song_has_no_excerpts(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(30 * 16_000), 16_000)
    excerpts = songs.Excerpts([tmp_path / "a.wav"], 3, np.random.default_rng(0))
    assert excerpts._cut_song(tmp_path / "a.wav") == []


def test_shards_of_songs_join_rendered_ones(folder, settings, tmp_path):
    song(tmp_path / "a.wav", 30, 500)
    excerpts = replace(settings, songs=(tmp_path / "a.wav",))
    assert excerpts.identity() != settings.identity()
    pretraining_clips._render_shard((tmp_path, excerpts, excerpts.identity(), 0))
    clips = pretraining_clips.Clips(folder, settings, 2)
    joined = clips + pretraining_clips.Clips(tmp_path, excerpts, 1)
    assert len(joined) == 3 * SHARD_CLIPS and joined.identity != clips.identity
    assert joined.known().tolist() == 2 * SHARD_CLIPS * [True] + SHARD_CLIPS * [False]
    first, last = joined.batch([0]), joined.batch([2 * SHARD_CLIPS])
    assert torch.equal(first.log_mel, clips.batch([0]).log_mel)
    assert last.truth.isnan().all() and last.log_mel.isfinite().all()
    assert not torch.equal(first.embedding, last.embedding)


def test_a_truth_that_is_unknown_has_no_influence(training):
    run = training()
    batch = run.train.batch(torch.arange(4))
    unknown = replace(batch, truth=torch.full_like(batch.truth, torch.nan))
    half = replace(batch, truth=torch.cat([batch.truth[:2], unknown.truth[2:]]))
    output = run.student(batch.log_mel)
    losses = run.student.losses(output, half)
    known = functional.binary_cross_entropy_with_logits(output.source_logits[:2], batch.truth[:2])
    assert torch.allclose(losses["sounds"], known)
    assert run.student.losses(output, unknown)["sounds"] == 0


def test_outliers_of_the_teacher_are_bounded(training):
    run = training()
    batch = run.train.batch(torch.arange(4))
    far = replace(batch, embedding=batch.embedding + 1e6)
    output = run.student(batch.log_mel)
    head = run.student.embedding_head(output.embedding)
    loss = run.student.losses(output, far)["embedding"]
    assert torch.allclose(loss, (head - distillation.LARGEST_TARGET).square().mean())


def test_constant_targets_are_left_out(tiny_ast):
    clips = random_clips(8, 0)
    clips.embedding[:, 2:5] = 7.0
    student = Student(tiny_ast(frames=70, n_source=175), clips)
    assert student.embedding_head.out_features == 12 - 3
    batch = clips.batch(torch.arange(8))
    output = student(batch.log_mel)
    before = student.losses(output, batch)["embedding"]
    batch.embedding[:, 2:5] = -1e3
    assert torch.equal(student.losses(output, batch)["embedding"], before)


def test_a_damaged_or_foreign_shard_is_refused(folder, settings, tmp_path):
    data = bytearray((folder / "00000.safetensors").read_bytes())
    with pytest.raises(ValueError, match="00000.*missing"):
        pretraining_clips.Clips(tmp_path, settings, 1)
    for position in (0, 12, data.index(b"made_from"), data.index(b"truth"), len(data) - 1):
        data[position] ^= 16
        (tmp_path / "00000.safetensors").write_bytes(data)
        with pytest.raises(ValueError, match="00000.*(damaged|other)"):
            pretraining_clips.Clips(tmp_path, settings, 1)
        data[position] ^= 16
    with pytest.raises(ValueError, match="00000.*other"):
        pretraining_clips.Clips(folder, replace(settings, seed=1), 1)


def test_augmentation_keeps_the_truth_and_mixes_targets():
    batch = random_clips(200, 0).batch(torch.arange(200))
    generator = torch.Generator().manual_seed(0)
    single = distillation.augment(batch, generator, mixed=0.0, fill=0.0)
    assert torch.equal(single.truth, batch.truth)
    assert torch.equal(single.embedding, batch.embedding)
    assert not torch.equal(single.log_mel, batch.log_mel)

    mixed = distillation.augment(batch, generator, mixed=1.0, fill=0.0)
    assert torch.equal(mixed.truth, batch.truth.maximum(batch.truth.roll(1, 0)))
    share = (mixed.tags - batch.tags) / (batch.tags.roll(1, 0) - batch.tags)
    least = 1 / 11  # 10 dB below
    assert share.median(1).values.min() > least - 0.01
    assert share.median(1).values.max() < 1 - least + 0.01


def test_mixing_adds_energies(monkeypatch):
    monkeypatch.setattr(distillation, "FLOOR_DB", (-300, -300))
    for name in ("EQUALISER_DB", "LEVEL_DB", "MIX_DB", "LONGEST_STRIPE", "WIDEST_STRIPE"):
        monkeypatch.setattr(distillation, name, 0)
    batch = random_clips(6, 0).batch(torch.arange(6))
    flat = replace(batch, log_mel=torch.arange(6.0)[:, None, None].expand(6, 64, 32))
    mixed = distillation.augment(flat, torch.Generator().manual_seed(0), mixed=1.0, fill=0.0)
    # At equal loudness, twice the energy.
    assert torch.allclose(mixed.log_mel, flat.log_mel + np.log(2))


@pytest.mark.parametrize(
    "steps", [pytest.param(1, marks=pytest.mark.slow), 6, pytest.param(8, marks=pytest.mark.slow)]
)
def test_a_training_that_was_killed_ends_bit_equal(training, tmp_path, monkeypatch, steps):
    whole = training()
    backbone = whole.run()
    history = (tmp_path / "history.jsonl").read_text()
    (tmp_path / "last.pt").unlink()
    assert len(whole.history) == 4
    assert whole.history[-1]["sounds"] < whole.history[0]["sounds"]

    step = Pretraining._train_step

    def killed(self):
        if self.step == steps:
            raise KeyboardInterrupt
        return step(self)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Pretraining, "_train_step", killed)
        training(checkpoint_s=0).run()
    resumed = training()
    for name, tensor in resumed.run().state_dict().items():
        assert torch.equal(tensor, backbone.state_dict()[name]), name
    assert resumed.history == whole.history
    assert (tmp_path / "history.jsonl").read_text() == history


def test_a_checkpoint_of_another_plan_is_refused(training):
    training(epochs=1).run()
    with pytest.raises(ValueError, match="last.pt: plan .*'epochs': 1.*delete it"):
        training(epochs=2).run()


def test_a_checkpoint_of_other_clips_is_refused(training):
    training().run()
    other = training()
    other.train.identity = "other soundfonts"
    with pytest.raises(ValueError, match="last.pt: clips .*other soundfonts.*delete it"):
        other.run()


def test_the_probe_finds_what_an_embedding_shows():
    rng = np.random.default_rng(0)
    clips = random_clips(500, 0)
    clips.truth = torch.from_numpy((rng.random((500, 175)) < 0.2).astype(np.int8))
    clips.truth[::5] = songs.UNKNOWN
    shown = clips.truth.numpy() + 0.1 * rng.normal(size=clips.truth.shape)
    shown[::5] = 1e6  # must not matter
    assert distillation.probe(clips, shown) > 0.9
    assert distillation.probe(clips, rng.normal(size=shown.shape)) < 0.6
    clips.truth[:] = 0
    assert distillation.probe(clips, shown) is None


def test_a_missing_soundfont_is_named(tmp_path):
    args = pretrain.parse().parse_args(
        ["--out", str(tmp_path / "out"), "--data", str(tmp_path), "--soundfonts", "no.sf2"]
    )
    with pytest.raises(ValueError, match=r"no.sf2: no such soundfont; install .*fluid"):
        pretrain.main(args)


def test_a_single_song_cannot_both_train_and_validate(settings, tmp_path):
    song(tmp_path / "a.wav", 30, 500)
    options = ["--out", tmp_path / "out", "--data", tmp_path, "--songs", tmp_path, "--soundfonts"]
    options += ["--teacher", settings.teacher]
    with pytest.raises(ValueError, match="one song; expected at least two"):
        pretrain.main(pretrain.parse().parse_args(list(map(str, options))))


def test_bfloat16_changes_a_step_by_rounding_only(training):
    exact = training()._train_step()
    rounded = training(bf16=True)._train_step()
    assert rounded != exact
    assert rounded == pytest.approx(exact, rel=0.02)


@pytest.mark.slow
def test_the_script_resumes_after_kills(settings, tmp_path):
    out = tmp_path / "out.safetensors"
    command = [sys.executable, SMALL, "--out", out, "--data", tmp_path, "--soundfonts"]
    (tmp_path / "songs").mkdir()
    song(tmp_path / "songs" / "a.wav", 30, 500)
    song(tmp_path / "songs" / "b.wav", 30, 700)
    command += [
        "--songs",
        tmp_path / "songs",
        "--teacher",
        settings.teacher,
        "--clips",
        "8",
        "--epochs",
        "3",
        "--batch",
        "4",
    ]
    command += ["--nj", "1", "--checkpoint-minutes", "0"]
    for awaited in ("train/00000.safetensors", "last.pt"):
        process = start(command)
        wait_until((tmp_path / awaited).is_file, process)
        process.kill()
        process.communicate()
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert "0 clips to make" in run.stdout
    lines = (tmp_path / "history.jsonl").read_text().splitlines()
    assert len(lines) == 4
    header = weights.read_header(out)
    network = backbones.build("ast", mean=header["mean"], std=header["std"], **header["dims"])
    weights.load(network, out)
    assert header["source_classes"] == sounds.CLASSES
    command[command.index("--data") + 1] = tmp_path / "next"
    command += ["--init", out]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
