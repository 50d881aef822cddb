"""Content decides, times and names of files do not.

Stale, foreign or damaged files are made again or refused by the stages as the recipe calls them.
"""

import importlib
import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ast_repr import atomic, checkpoint, cli, config, inference, manifest
from ast_repr.data import feature_store
from ast_repr.run_folder import RunFolder
from ast_repr.training import trainer

ROOT = Path(__file__).parents[1]
CONF_DIR = str(ROOT / "egs" / "openmic" / "conf")
RATE = 16_000
SPLITS = ["train"] * 6 + ["valid"] * 3 + ["test"] * 3
FINISHED = ("ast_linear", "ast_linear+train.batch_size=3")


@pytest.fixture(scope="module")
def stages():
    """The stages' scripts by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "src"))
        names = ("prepare", "extract", "train", "score")
        yield {name: importlib.import_module(name) for name in names}


class Project:
    """A folder with a CSV, its audio, and what the stages make of them."""

    def __init__(self, root, stages, weights):
        self.root, self.stages, self.weights = root, stages, weights
        self.data, self.exp = root / "data" / "songs", root / "exp" / "songs"

    def copy(self, root):
        shutil.copytree(self.root, root)
        return Project(root, self.stages, self.weights)

    def stage(self, name, *options, conf="ast_linear"):
        """Exit code of a stage that is called as the recipe calls it."""
        confs = ["--conf-dir", CONF_DIR, "--conf", conf, "--set", "train.epochs=2"]
        runs = ["--exp", self.exp, *confs, "--backbone", "tiny", "--weights", self.weights]
        known = {
            "prepare": ["--corpus", "custom", "--root", self.root / "songs.csv"],
            "extract": confs,
            "train": [*runs, "--device", "cpu"],
            "score": [*runs, "--device", "cpu"],
        }
        line = ["--data", self.data, *known[name], *options]
        try:
            cli.run(self.stages[name].main, self.stages[name].parse(), list(map(str, line)))
        except SystemExit as left:
            return left.code
        return 0

    def keeps(self, name, *options):
        """Whether a stage ends well and leaves the file that it would write as it is."""
        path = {"train": self.run().last, "score": self.run().results}[name]
        before = path.stat() if path.exists() else None
        assert self.stage(name, *options) == 0
        after = path.stat()
        if before is None:
            return False
        return (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)

    def run(self, conf="ast_linear"):
        return RunFolder.of(self.exp, conf, 0)

    def results(self, conf="ast_linear"):
        return json.loads(self.run(conf).results.read_text())


def write_tone(path, pitch, seed):
    noise = 0.01 * np.random.default_rng(seed).standard_normal(RATE)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.4 * np.sin(2 * np.pi * pitch * np.arange(RATE) / RATE) + noise, RATE)


@pytest.fixture(scope="module")
def made(stages, backbone_file, tmp_path_factory):
    """A project whose runs are finished and scored."""
    project = Project(tmp_path_factory.mktemp("project"), stages, backbone_file)
    lines = ["path,split,low,high"]
    for i, split in enumerate(SPLITS):
        write_tone(project.root / "audio" / f"{i}.wav", 200 if i % 2 else 2000, i)
        lines.append(f"audio/{i}.wav,{split},{i % 2},{1 - i % 2}")
    (project.root / "songs.csv").write_text("\n".join(lines) + "\n")
    for name in ("prepare", "extract", "train", "score"):
        assert project.stage(name, conf=",".join(FINISHED) if name != "prepare" else "") == 0
    return project


@pytest.fixture
def project(made, tmp_path):
    """A copy of it: all files have other times and inodes."""
    return made.copy(tmp_path / "copy")


@pytest.fixture
def said(capsys):
    """() -> what was printed since the last time, standard error last."""
    return lambda: "".join(capsys.readouterr())


def replace_audio(project, i=11):
    """Other sound of the same size and time of change in the same place."""
    path = project.root / "audio" / f"{i}.wav"
    before = path.stat()
    write_tone(path, 700, 99)
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def write_truth(project, flipped):
    """A second table, of the test clips, that contradicts the label of one of them."""
    lines = ["path,low,high"]
    for i, split in enumerate(SPLITS):
        if split == "test":
            low = (i % 2) ^ (i == flipped)
            lines.append(f"audio/{i}.wav,{low},{1 - low}")
    (project.root / "songs.truth.csv").write_text("\n".join(lines) + "\n")


def flip(path, place=None):
    """Flip one bit of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if place is None else place] ^= 1
    path.write_bytes(data)


def times(project):
    kept = [*project.data.rglob("*"), *project.exp.rglob("*")]
    return {path: path.stat().st_mtime_ns for path in kept if path.is_file()}


def test_a_second_run_redoes_nothing(project):
    assert project.stage("prepare") == 0  # keeps the hashes of the copied files
    before = times(project)
    for name in ("prepare", "extract", "train", "score"):
        assert project.stage(name) == 0
    changed = {path.name for path, time in times(project).items() if before.get(path) != time}
    assert changed <= {".lock", manifest.HASHES}


def test_results_hold_the_hashes_of_all_their_inputs(project):
    results = project.results()
    clips, classes = manifest.read(project.data)
    made_from = results["made_from"]
    assert made_from["manifest"] == manifest.content_sha256(clips, classes)
    assert made_from["checkpoints"].keys() == {"best.valid.macro_f1.pt"}
    assert project.run().matches(made_from["checkpoints"])
    assert project.run().matches(results["files"])
    assert "predictions.npz" in results["files"]
    assert made_from["weights"] == manifest.identity.of_file(project.weights)
    assert made_from["feature"]["feature"] == "logmel"
    assert project.run().read_results() == results


def test_replaced_audio_under_the_same_path_is_used_everywhere(project, said):
    old, embeddings = project.results(), set((project.data / "embeddings").iterdir())
    replace_audio(project)
    assert project.stage("prepare") == 0
    assert "up to date" not in said()
    for name in ("train", "score"):  # features, and then the run, are of the old sound
        assert project.stage(name) == 2
        assert "run.manifest_sha256" in said()
    assert project.stage("train", "--overwrite") == 1
    assert "1 clips have changed" in said()
    assert project.stage("extract") == 0
    assert "1 clips have changed" in said()
    assert project.stage("train") == 0
    assert project.stage("score") == 0
    new = project.results()
    assert new["made_from"]["manifest"] != old["made_from"]["manifest"]
    assert set((project.data / "embeddings").iterdir()) - embeddings
    model = inference.load(project.run().path, precision="auto")  # as in training
    sound = soundfile.read(project.root / "audio" / "11.wav", dtype="float32")[0]
    with np.load(project.run().predictions) as saved:
        row = list(saved["clips"]).index("audio/11.wav")
        np.testing.assert_allclose(model(sound[None])[0], saved["scores"][row], atol=1e-4)


def test_score_never_prints_figures_of_another_manifest(project, said):
    figure = f"{project.results()['metrics']['macro_f1']:.3f}"
    replace_audio(project, 3)
    assert project.stage("prepare") == 0
    assert project.stage("extract") == 0
    said()
    assert project.stage("score") == 2
    printed = said()
    assert "run.manifest_sha256" in printed
    assert figure not in printed
    assert "scored" not in printed


def test_classes_in_another_order_are_other_classes(project, said):
    text = (project.root / "songs.csv").read_text().splitlines()
    swapped = [",".join([path, split, b, a]) for path, split, a, b in (t.split(",") for t in text)]
    (project.root / "songs.csv").write_text("\n".join(swapped) + "\n")
    assert project.stage("prepare") == 0
    for name in ("train", "score"):
        said()
        assert project.stage(name) == 2
        assert "run.classes: ['low', 'high'] -> ['high', 'low']" in said()


def test_other_weights_of_the_same_size_are_refused(project, said):
    weights = project.root / "other.safetensors"
    shutil.copy(project.weights, weights)
    flip(weights, -5)
    for name in ("train", "score"):
        assert project.stage(name, "--weights", weights) == 2
        assert "run.weights_sha256" in said()


def test_other_settings_are_refused_even_without_a_readable_config(project, said):
    run = project.run()
    whole = run.config.read_text()
    for damage in (run.config.unlink, lambda: run.config.write_text(whole[: len(whole) // 2])):
        damage()
        for name in ("train", "score"):
            assert project.stage(name, "--set", "optimizer.lr=0.5") == 2
            assert "optimizer.lr: 0.003 -> 0.5" in said()
        assert project.keeps("score")
        assert project.keeps("train")
        assert config.read(run.config) == trainer.read_last(run)["about"]["config"]


def test_a_folder_that_nothing_explains_is_refused(project, said):
    run = project.run()
    run.last.unlink()
    run.config.write_text("a: [")
    assert project.stage("train") == 2
    assert "neither last.pt nor a readable config.yaml" in said()
    assert run.results.is_file()
    assert project.stage("train", "--overwrite") == 0
    assert not run.results.is_file()


@pytest.mark.parametrize("text", [None, "", "[1]\n", '{"epoch": 1, "lo', "\udcff"])
def test_the_history_is_a_copy(text, project, said):
    run = project.run()
    whole = run.history.read_text()
    if text is None:
        run.history.unlink()
    else:
        run.history.write_bytes(text.encode(errors="surrogateescape"))
    assert project.keeps("score")
    assert project.keeps("train")
    assert run.history.read_text() == whole


def test_the_best_checkpoint_is_a_copy(project, said):
    run = project.run()
    (path,) = run.path.glob("best.*")
    whole = path.read_bytes()
    damages = {
        "lost": path.unlink,
        "flipped": lambda: flip(path),
        "cut": lambda: path.write_bytes(whole[:100]),
        "another run's": lambda: shutil.copy(project.run(FINISHED[1]).path / path.name, path),
    }
    for what, damage in damages.items():
        damage()
        assert project.stage("score") == 1, what
        assert f"{path.name}: missing, damaged or of another run" in said()
        assert project.keeps("train")
        assert path.read_bytes() == whole
        assert project.keeps("score")


def test_another_checkpoint_in_the_place_of_the_last_is_named(project, said):
    run = project.run()
    (best,) = run.path.glob("best.*")
    shutil.copy(best, run.last)
    for name in ("train", "score"):
        assert project.stage(name) == 1
        assert f"delete the folder {run}" in said()


@pytest.mark.parametrize("share", [0.0, 0.5, None])
def test_a_damaged_last_checkpoint_is_named_and_the_remedy_works(share, project, said):
    run = project.run()
    data = run.last.read_bytes()
    if share is None:
        flip(run.last)
    else:
        run.last.write_bytes(data[: round(share * len(data))])
    for name in ("train", "score"):
        assert project.stage(name) == 1
        assert "last.pt: damaged" in (printed := said())
        assert f"delete the folder {run} and train again" in printed
    shutil.rmtree(run.path)
    assert project.stage("train") == 0
    assert project.stage("score") == 0


def test_a_kill_between_last_and_best_loses_nothing(project, monkeypatch):
    run = project.run()
    expected = {path.name: path.read_bytes() for path in run.path.glob("best.*")}
    shutil.rmtree(run.path)

    def killed(path, data, write=atomic.write_bytes):
        if Path(path).name.startswith("best."):
            raise KeyboardInterrupt
        write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "write_bytes", killed)
        assert project.stage("train") == 130
        assert run.last.is_file()
        assert not list(run.path.glob("best.*"))
    assert project.stage("train") == 0
    learned = [checkpoint.parse(data)["learned"] for data in expected.values()]
    learned += [checkpoint.load(path)["learned"] for path in run.path.glob("best.*")]
    assert len(learned) == 2
    assert all(np.array_equal(learned[0][key], learned[1][key]) for key in learned[0])


def test_damaged_results_are_made_again(project, said):
    run = project.run()
    wanted = project.results()["metrics"]
    whole, rng = run.results.read_bytes(), random.Random(0)
    for _ in range(50):
        run.results.write_bytes(whole)
        flip(run.results, rng.randrange(len(whole)))
        assert run.read_results() in (None, json.loads(whole))
    damages = [
        lambda: run.results.write_text(whole.decode().replace('"clips": 3', '"clips": 4')),
        lambda: flip(run.predictions),
        lambda: shutil.copy(project.run(FINISHED[1]).predictions, run.predictions),
        run.predictions.unlink,
        lambda: run.results.write_text("[1]"),
    ]
    for damage in damages:
        damage()
        said()
        assert not project.keeps("score")
        assert project.results()["metrics"] == wanted
    assert project.keeps("score")


def test_a_run_that_was_copied_in_with_its_times_is_not_scored_before(project, said):
    shutil.rmtree(project.run().path)
    shutil.copytree(project.run(FINISHED[1]).path, project.run().path)
    assert project.stage("score") == 2
    assert "train.batch_size: 3 -> " in said()
    assert project.stage("train") == 2
    assert "run.conf" in said()


def test_without_git_the_commit_is_unknown_and_the_work_is_kept(project, monkeypatch):
    project.run().results.unlink()
    monkeypatch.setenv("PATH", "")
    assert project.stage("score") == 0
    assert project.results()["commit"] is None


def test_two_processes_do_not_share_a_run(project, said):
    with project.run().locked():
        assert project.stage("train") == 1
    assert "another process is training there" in said()


def test_under_the_papers_protocol_each_epoch_is_of_this_run(project, said):
    paper = ("--protocol", "paper", "--set", "augment.time=0", "--set", "augment.freq=0")
    project.exp = project.root / "exp" / "songs-paper"
    assert project.stage("train", *paper) == 0
    assert project.stage("score", *paper) == 0
    assert project.keeps("score", *paper)
    run = project.run()
    (best,) = run.path.glob("best.test.*")
    whole = best.read_bytes()
    flip(best)
    assert project.stage("score", *paper) == 0
    assert best.read_bytes() == whole
    flip(run.epoch(1))
    for name in ("score", "train"):
        assert project.stage(name, *paper) == 1
        assert "epoch.001.pt" in said()
    shutil.rmtree(run.path)
    assert project.stage("train", *paper) == 0
    assert project.stage("score", *paper) == 0


def test_a_damaged_shard_is_named_and_the_remedy_works(project, said):
    shutil.rmtree(project.data / "embeddings")
    shutil.rmtree(project.run().path)
    shard = feature_store.shard_path(project.data / "features" / "logmel", 0)
    flip(shard)
    assert project.stage("train") == 1
    assert f"{shard.name}: damaged" in said()
    shard.unlink()
    assert project.stage("extract") == 0
    assert project.stage("train") == 0


def test_a_damaged_manifest_is_named_and_prepare_mends_it(project, said):
    flip(project.data / "manifest.jsonl")
    for name in ("extract", "train", "score"):
        assert project.stage(name) == 1
        assert "run the stage `prepare` again" in said()
    assert project.stage("prepare") == 0
    assert project.keeps("train")


def test_a_corpus_that_was_moved_is_the_same_corpus(project):
    (project.root / "elsewhere").mkdir()
    for name in ("songs.csv", "audio"):
        (project.root / name).rename(project.root / "elsewhere" / name)
    root = project.root / "elsewhere" / "songs.csv"
    assert project.stage("prepare", "--root", root) == 0
    before = times(project)
    for name in ("extract", "train", "score"):
        assert project.stage(name) == 0
    changed = {path.name for path, time in times(project).items() if before.get(path) != time}
    assert changed <= {".lock", manifest.HASHES}


def test_the_truth_is_scored_and_trains_nothing(project):
    before = project.results()
    assert "truth" not in before and "truth" not in before["made_from"]
    write_truth(project, flipped=9)
    assert project.stage("prepare") == 0
    assert project.keeps("train")
    assert not project.keeps("score") and project.keeps("score")
    results = project.results()
    clips, classes = manifest.read(project.data)
    test = [clip for clip in clips if clip.split == "test"]
    assert results["made_from"]["truth"] == manifest.truth_sha256(test)
    assert results["truth"]["sha256"] == results["made_from"]["truth"]
    assert results["metrics"] == before["metrics"]
    counts = results["truth"]["metrics"]["per_instrument"]["low"]
    assert (counts["present"], counts["absent"]) == (1, 2)
    with np.load(project.run().predictions) as arrays:
        np.testing.assert_array_equal(arrays["truth"], manifest.truth(test, classes))
    write_truth(project, flipped=11)
    assert project.stage("prepare") == 0
    assert project.keeps("train") and not project.keeps("score")
    assert project.results()["truth"] != results["truth"]
