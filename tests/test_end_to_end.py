"""The whole recipe on a small corpus, as a person runs it, in a copy of the tree."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import run_script, start, wait_until

import report
from ast_repr import audio, checkpoint, inference, metrics

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow
CONFS = (
    "ast_linear",
    "ast_unet_residual",
    "forest",
    "logmel_statistics",
    "ast_zero_shot",
    "ast_linear+train.clip_fraction=0.5",
    "ast_linear+train.label_fraction=0.5",
)
NETWORKS = CONFS[:2]
OPTIONS = ("--clips", "200", "--conf", ",".join(CONFS), "--set", "train.epochs=2")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A tree with this code and these recipes, and its own folders for data and experiments."""
    root = tmp_path_factory.mktemp("tree")
    shutil.copytree(ROOT / "egs", root / "egs", ignore=shutil.ignore_patterns("data", "exp"))
    for name in ("src", "pretrained_models", "pyproject.toml"):
        (root / name).symlink_to(ROOT / name)
    return root


def recipe(tree, *options):
    return [shutil.which("bash"), str(tree / "egs" / "openmic" / "run.sh"), *options]


def environment():
    """The Python that runs the tests comes first, so that the recipe takes it."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def run(tree, *options):
    return subprocess.run(
        recipe(tree, *options),
        cwd=tree,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.fixture(scope="module")
def finished(tree):
    """The recipe, killed once in training and then run to the end: (its folder, its output)."""
    nowhere = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = start(recipe(tree, *OPTIONS), cwd=tree, env=environment(), **nowhere)
    checkpoint = tree / "egs/openmic/exp/synthetic-200/ast_linear/seed0/last.pt"
    wait_until(checkpoint.is_file, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = run(tree, *OPTIONS)
    assert done.returncode == 0, done.stderr
    return tree / "egs" / "openmic", done.stdout


def test_the_table_and_the_files_are_there(finished):
    recipe_folder, printed = finished
    for word in (
        "always absent",
        "always present",
        "AST-BS",
        "AST-URP, residual",
        "RF (log-mel)",
        "log-mel statistics",
        "zero-shot",
        "macro-F1",
    ):
        assert word in printed
    exp = recipe_folder / "exp" / "synthetic-200"
    for conf in CONFS:
        files = {path.name for path in (exp / conf / "seed0").iterdir()}
        assert files >= {
            "config.yaml",
            "history.jsonl",
            "last.pt",
            "best.valid.macro_f1.pt",
            "predictions.npz",
            "results.json",
        }
    results = (exp / "RESULTS.md").read_text()
    assert "AST-BS" in results
    for question in ("How few labels are enough?", "From how much data on does the U-Net pay?"):
        assert question in results
    assert {path.suffix for path in (exp / "figures").iterdir()} == {".png", ".pdf"}


def test_a_run_that_ended_at_its_cap_of_epochs_says_so(finished):
    recipe_folder, printed = finished
    at_cap = {}
    for conf in CONFS:
        results = recipe_folder / "exp/synthetic-200" / conf / "seed0/results.json"
        at_cap[conf] = json.loads(results.read_text())["ended_at_cap"]
    assert at_cap == {conf: conf.startswith(NETWORKS) for conf in CONFS}
    assert "†: training ended at its cap of epochs" in printed


def test_only_data_and_experiments_are_written_and_no_temporary_files_stay(finished):
    """Though the first run was killed."""
    recipe_folder, _ = finished
    egs = recipe_folder.parent
    for path in egs.rglob("*"):
        own = path.relative_to(egs)
        if path.is_file() and not {"data", "exp"} & set(own.parts):
            assert path.read_bytes() == (ROOT / "egs" / own).read_bytes()
    hidden = {path.name for path in egs.rglob(".*")}
    assert hidden <= {".lock"}  # of runs; deleting one would let two processes in


def test_a_second_run_redoes_nothing_and_prints_the_same_table(finished):
    recipe_folder, printed = finished
    made = [path for path in (recipe_folder / "exp").rglob("seed0/*") if path.name != ".lock"]
    before = {path: path.stat().st_mtime_ns for path in made}
    again = run(recipe_folder.parents[1], *OPTIONS)
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before
    table = [
        line
        for line in printed.splitlines()
        if "(ast_" in line or "(forest)" in line or line.startswith("always")
    ]
    assert table
    assert set(table) <= set(again.stdout.splitlines())


def test_a_changed_config_is_refused_with_the_key_and_nothing_is_lost(finished):
    recipe_folder, _ = finished
    results = recipe_folder / "exp/synthetic-200/ast_linear/seed0/results.json"
    before = results.read_bytes()
    refused = run(
        recipe_folder.parents[1], *OPTIONS, "--set", "optimizer.lr=0.5", "--from", "train"
    )
    assert refused.returncode == 2
    assert "optimizer.lr: 0.003 -> 0.5" in refused.stderr
    assert "--overwrite" in refused.stderr
    assert results.read_bytes() == before


def test_results_follow_from_the_predictions_file(finished):
    folder = finished[0] / "exp/synthetic-200/ast_linear/seed0"
    with np.load(folder / "predictions.npz") as saved:
        found = metrics.evaluate(saved["targets"], saved["mask"], saved["scores"])
    assert (
        found["macro_f1"]
        == json.loads((folder / "results.json").read_text())["metrics"]["macro_f1"]
    )


@pytest.mark.parametrize("conf", [*NETWORKS, "forest"])
def test_inference_on_the_audio_agrees_with_the_scored_predictions(finished, conf):
    recipe_folder, _ = finished
    run = recipe_folder / "exp/synthetic-200" / conf / "seed0"
    predictor = inference.load(run, precision="auto")  # as in training
    with np.load(run / "predictions.npz") as saved:
        names, scores, classes = saved["clips"][:4], saved["scores"][:4], saved["classes"]
    assert predictor.classes == list(classes)
    for name, expected in zip(names, scores, strict=True):
        waveform = audio.decode(
            recipe_folder / "data/synthetic-200/openmic-2018/audio" / name[:3] / f"{name}.ogg"
        )
        np.testing.assert_allclose(predictor(audio.fit(waveform)[None])[0], expected, atol=1e-4)


def test_a_dry_run_prints_an_estimate_and_trains_nothing(finished):
    recipe_folder, _ = finished
    before = sorted((recipe_folder / "exp").rglob("*"))
    done = run(
        recipe_folder.parents[1],
        *OPTIONS[:2],
        "--conf",
        "ast_linear,forest",
        "--seeds",
        "0,1",
        "--dry-run",
        "--overwrite",
    )
    assert done.returncode == 0, done.stderr
    assert "ast_linear: about" in done.stdout
    assert "forest: about" in done.stdout
    assert sorted((recipe_folder / "exp").rglob("*")) == before


def test_two_methods_are_compared_from_their_stored_predictions(finished, capsys):
    exp = finished[0] / "exp" / "synthetic-200"
    assert run_script(report, "--exp", exp, "--compare", "ast_linear", "forest") == 0
    scores = [
        json.loads((exp / conf / "seed0/results.json").read_text())["metrics"]["macro_f1"]
        for conf in ("ast_linear", "forest")
    ]
    difference = f"forest - ast_linear: {100 * (scores[1] - scores[0]):+.1f} points"
    assert difference in capsys.readouterr().out


def test_the_papers_protocol_keeps_apart_and_looks_at_every_epoch(finished):
    recipe_folder, _ = finished
    done = run(
        recipe_folder.parents[1],
        *OPTIONS[:2],
        "--conf",
        "ast_linear",
        "--set",
        "train.epochs=2",
        "--protocol",
        "paper",
        "--from",
        "train",
        "--set",
        "augment.time=0",
        "--set",
        "augment.freq=0",
    )
    assert done.returncode == 0, done.stderr
    folder = recipe_folder / "exp/synthetic-200-paper/ast_linear/seed0"
    assert {path.name for path in folder.glob("*.pt")} == {
        "epoch.001.pt",
        "epoch.002.pt",
        "last.pt",
        "best.test.macro_f1.pt",
    }
    results = json.loads((folder / "results.json").read_text())
    assert results["protocol"] == "paper"
    assert results["norm"] == "none"
    assert results["selection"]["split"] == "test"


def test_a_reprogrammer_is_added_as_egs_readme_says(finished, tmp_path):
    recipe_folder, _ = finished
    section = (ROOT / "egs" / "README.md").read_text().split("## Adding a reprogrammer")[1]
    code = section.split("```python\n")[1].split("```")[0]
    variable, _, _, option, confs = section.split("```\nPYTHONPATH")[1].splitlines()[0].split()
    assert variable == "=~/mine"
    assert option == "--conf"
    (tmp_path / "mine.py").write_text(code)
    done = subprocess.run(
        recipe(
            recipe_folder.parents[1],
            *OPTIONS[:2],
            option,
            confs,
            "--set",
            "train.epochs=2",
            "--from",
            "train",
        ),
        env=environment() | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    folder = recipe_folder / "exp/synthetic-200" / confs.split(",")[1] / "seed0"
    learned = checkpoint.load(folder / "best.valid.macro_f1.pt")["learned"]["reprogrammer.factor"]
    assert learned.shape == (128,)
    assert (learned - 0.9).abs().min() > 0
    assert json.loads((folder / "results.json").read_text())["reprogrammer"] == "mine.Gain"
    assert "mine.Gain" in done.stdout
    command = section.split("```\nPYTHONPATH")[2].splitlines()[0].split()
    assert command[:2] == ["=~/mine", "python"]
    assert command[-3:-1] == ["--allow-class", "mine.Gain"]
    song = next(iter(sorted((recipe_folder / "data").rglob("*.ogg"))))
    predict = [sys.executable, ROOT / "src" / "predict.py", "--model", folder, song]
    for options, code in ((command[-3:-1], 0), ([], 1)):
        done = subprocess.run(
            [*predict, *options],
            env=environment() | {"PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == code
        assert ("--allow-class mine.Gain" in done.stderr) == bool(code)
