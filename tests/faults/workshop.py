"""The stages on a small corpus: their commands, what they start from, what they leave behind.

Everything lies in one folder, `work`, whose state before and after each stage is kept, so that a
stage can be tried as often as one likes. All that the campaigns know of the command line is here.
"""

import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import content
import corpus
import numpy as np
import verdict
from processes import Finished, Running, script
from verdict import Trial

ROOT = Path(__file__).resolve().parents[2]
CONF_DIR = ROOT / "egs" / "openmic" / "conf"
CONFS = ("ast_linear", "ast_unet_residual")
BACKBONE = "tiny"
RUN = Path("exp/ast_linear/seed0")
BEFORE = {  # stage: the one whose end it starts from
    "prepare": None,
    "extract": "prepare",
    "train": "extract",
    "score": "train",
    "report": "score",
    "predict": "score",
    "export": "score",
    "onnx": "score",
    "recipe": None,
    "render": None,
    "pretrain": None,
}
STAGES = tuple(BEFORE)
CHAIN = STAGES[: STAGES.index("onnx")]  # quick ones, on the shared corpus
SLOW = ("render", "pretrain")  # not begun again for each kill, but gone on with
WITH_WORKERS = ("extract", "render", "pretrain")
ORPHANS_S = 20.0  # that processes may take to notice that their parent is gone
PER_CLIP_S = 0.5  # upper bound of a stage's time for each clip, and
AT_LEAST_S = 600.0  # for the rest, on a busy machine


@dataclass
class Reference:
    """An undisturbed run of a stage: its seconds, the digests of all files, the bytes it wrote."""

    seconds: float
    files: dict[str, str]
    written: int


class Workshop:
    """A folder in which the stages run.

    Args:
        folder: an empty one.
        clips: size of the corpus; more than 256 make a second shard.
        work: where the stages run, if not in `folder`, as on another file system.
        epochs: of training.
    """

    def __init__(self, folder: Path, clips: int, work: Path | None = None, epochs: int = 3):
        self.kept = folder / "kept"
        self.work = work or folder / "work"
        self.temporary = folder / "tmp"  # TMPDIR of all commands
        self.clips, self.epochs = clips, epochs
        self.references: dict[str, Reference] = {}
        for path in (self.kept, self.work, self.temporary):
            path.mkdir(parents=True, exist_ok=True)
        start = self.kept / "start"
        corpus.make(start / "corpus", clips)
        corpus.write_backbone(start / f"{BACKBONE}.safetensors")
        corpus.write_teacher(start / "teacher.safetensors")
        rng = np.random.default_rng(1)
        corpus.write_sound(start / "song.ogg", rng, np.array([True, False, True, False]))
        _copy_tree_of_recipes(start / "tree")

    def command(self, stage: str) -> list[str]:
        """The command line of a stage."""
        work, run = self.work, self.work / RUN
        confs = ["--conf-dir", CONF_DIR, "--conf", ",".join(CONFS)]
        settings = ["--set", f"train.epochs={self.epochs}"]
        weights = work / f"{BACKBONE}.safetensors"
        data = ["--data", work / "data"]
        exp = ["--exp", work / "exp"]
        trained_on = ["--backbone", BACKBONE, "--weights", weights]
        options = {
            "prepare": ["--corpus", "openmic", "--root", work / "corpus", *data],
            "extract": [*data, *confs, "--nj", "2"],
            "train": [*data, *exp, *confs, *settings, *trained_on, "--device", "cpu"],
            "score": [*data, *exp, *confs, *settings, "--device", "cpu"]
            + (trained_on if _takes("score", "--weights") else []),
            "report": [*exp, "--out", work / "RESULTS.md", "--conf-dir", CONF_DIR],
            "predict": ["--model", run, "--format", "json", "--output", work / "found.json"]
            + ["--plot", work / "pictures", "--device", "cpu", work / "song.ogg"]
            + (["--overwrite"] if _takes("predict", "--overwrite") else []),
            "export": [run, work / "shared", "--merge"]
            + (["--overwrite"] if _takes("export", "--overwrite") else []),
            "render": ["--corpus", "synthetic", "--root", work / "rendered/openmic-2018"]
            + ["--data", work / "rendered", "--clips", "200", "--nj", "2"],
            "pretrain": ["--out", work / "made.safetensors", "--data", work / "rendered"]
            + ["--teacher", work / "teacher.safetensors", "--soundfonts", "--clips", "32"]
            + ["--epochs", "4", "--batch", "8", "--nj", "2", "--checkpoint-minutes", "0"],
        }
        options["onnx"] = [*options["export"], "--onnx"]
        if stage == "recipe":
            recipe = work / "tree" / "egs" / "openmic" / "run.sh"
            found = ["--corpus", "openmic", "--data-root", work / "corpus", "--nj", "2"]
            found += ["--backbone-file", weights, "--conf", CONFS[0], *settings, "--device", "cpu"]
            return list(map(str, ["bash", recipe, *found]))
        scripts = {"render": "prepare.py", "onnx": "export.py"}
        script = ROOT / "src" / scripts.get(stage, f"{stage}.py")
        if stage == "pretrain":
            script = Path(__file__).with_name("small_pretrain.py")
        return list(map(str, [sys.executable, script, *options[stage]]))

    @property
    def environment(self) -> dict[str, str]:
        """What the commands are started with, besides the environment of this process."""
        first = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {"TMPDIR": str(self.temporary), "PATH": first, "OMP_NUM_THREADS": "1"}

    def start(self, stage: str, prefix: Sequence[str] = ()) -> Running:
        """Start a stage; `prefix`: a command that starts it in its turn, such as unshare."""
        return Running([*prefix, *self.command(stage)], self.environment, self.work)

    def patience(self, stage: str) -> float:
        """Seconds after which a stage counts as hanging."""
        known = self.references.get(stage)
        return AT_LEAST_S + (4 * known.seconds if known else 10 * PER_CLIP_S * self.clips)

    def finish(self, stage: str) -> Finished:
        """Run a stage to its end."""
        return self.start(stage).wait(self.patience(stage))

    def build(self, stages: Sequence[str]) -> None:
        """Run stages undisturbed, with those that they need, and keep their states.

        Raises:
            RuntimeError: one of them fails.
        """
        for stage in stages:
            self._build(stage)

    def _build(self, stage):
        if stage in self.references:
            return
        if BEFORE[stage]:
            self._build(BEFORE[stage])
        self.restore(stage)
        before = _bytes(self.work)
        started = time.monotonic()
        done = self.finish(stage)
        if done.code or done.traceback:
            raise RuntimeError(f"{stage} fails without a fault (exit {done.code}): {done.err}")
        seconds = time.monotonic() - started
        files = content.tree(self.work)
        if left := [name for name in files if content.temporary(Path(name))]:
            raise RuntimeError(f"{stage} leaves {', '.join(left)} without a fault")
        self.references[stage] = Reference(seconds, files, _bytes(self.work) - before)
        if stage in BEFORE.values():
            shutil.copytree(self.work, self.kept / stage, symlinks=True)

    def restore(self, stage: str) -> None:
        """Put the folder into the state from which a stage starts."""
        for path in (*self.work.iterdir(), *self.temporary.iterdir()):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        shutil.copytree(
            self.kept / (BEFORE[stage] or "start"), self.work, symlinks=True, dirs_exist_ok=True
        )

    def leftovers(self, stage: str) -> tuple[str, ...]:
        """Files that an undisturbed run does not leave, and all files in the temporary folder."""
        expected = self.references[stage].files
        left = [name for name in content.tree(self.work) if name not in expected]
        temporary = {path.name for path in self.temporary.iterdir()}
        temporary.discard(".ses")  # onnxruntime writes it whenever it is imported
        return (*left, *(f"tmp/{name}" for name in sorted(temporary)))

    def differing(self, stage: str) -> list[str]:
        """Files that are missing, or hold something else than after an undisturbed run."""
        expected, now = self.references[stage].files, content.tree(self.work)
        return [name for name, digest in expected.items() if now.get(name) != digest]

    def judge(
        self, stage: str, how: str, disturbed: Sequence[Finished], again: Finished, orphans=()
    ) -> Trial:
        """What came of a stage that was disturbed and then run to its end."""
        runs = [*disturbed, again]
        left = (*orphans, *self.leftovers(stage))
        if any(run.hang for run in runs):
            result, note = verdict.HANG, next(run.last_line for run in runs if run.hang)
        elif any(run.traceback for run in runs):
            result, note = verdict.TRACEBACK, next(run.last_line for run in runs if run.traceback)
        elif again.code:
            result, note = verdict.FAILED, f"then exit {again.code}: {again.last_line}"
        elif differing := self.differing(stage):
            result, note = verdict.SILENT, f"differs: {', '.join(differing[:4])}"
        else:
            result, note = verdict.SURVIVED, ""
        return Trial(stage, result, how, note, left)


def _takes(name: str, option: str) -> bool:
    """Whether a script of this version has an option."""
    return option in script(name).parse()._option_string_actions


def _copy_tree_of_recipes(tree: Path) -> None:
    """The recipes with this repository's code, and their own folders for data and experiments."""
    ignored = shutil.ignore_patterns("data", "exp", "RESULTS.md", "BENCHMARKS.md", "benchmarks")
    shutil.copytree(ROOT / "egs", tree / "egs", ignore=ignored)
    for name in ("src", "pretrained_models", "pyproject.toml"):
        (tree / name).symlink_to(ROOT / name)


def _bytes(folder):
    return sum(path.lstat().st_size for path in content.files(folder))
