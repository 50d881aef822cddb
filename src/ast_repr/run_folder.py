"""Run folders: names of files, lock, results, and the choice of the best run.

last.pt             state after the last epoch, the history, the best checkpoint; authoritative
best.<split>.<metric>.pt     the best checkpoint; a copy from last.pt
epoch.<number>.pt   the checkpoint of each epoch, if the selection is on test
history.jsonl       one line per epoch, for people; a copy from last.pt
config.yaml         the resolved config; a copy from last.pt
command.txt         the command that started the training, for reports
results.json        scores and the hashes of their inputs, sealed by its own sha256
predictions.npz, example.npz     written with results.json by the stage `score`
"""

import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from . import atomic, identity
from .choices import CORPORA

# Checkpoint selection of the protocol `clean`; only its values are compared between runs.
SELECTION = {"split": "valid", "metric": "macro_f1", "mode": "max"}


@dataclass(frozen=True)
class RunFolder:
    """Files of one run, which may or may not exist."""

    path: Path

    @classmethod
    def of(cls, experiments: str | Path, conf: str, seed: int) -> "RunFolder":
        """Return the folder of a conf and seed among the experiments of a corpus."""
        return cls(Path(experiments) / conf / f"seed{seed}")

    def __str__(self):
        return str(self.path)

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def command(self) -> Path:
        return self.path / "command.txt"

    @property
    def last(self) -> Path:
        return self.path / "last.pt"

    @property
    def history(self) -> Path:
        return self.path / "history.jsonl"

    @property
    def results(self) -> Path:
        return self.path / "results.json"

    @property
    def predictions(self) -> Path:
        return self.path / "predictions.npz"

    @property
    def example(self) -> Path:
        return self.path / "example.npz"

    @property
    def head(self) -> "RunFolder":
        """The run that trains the head alone first."""
        return RunFolder(self.path / "head")

    def best(self, split: str, metric: str) -> Path:
        """Return the path of the best checkpoint, which names its selection."""
        return self.path / f"best.{split}.{metric}.pt"

    def epoch(self, number: int) -> Path:
        """Return the path of an epoch's checkpoint, if each is kept."""
        return self.path / f"epoch.{number:03d}.pt"

    def any_best(self) -> Path | None:
        """Return the best checkpoint by any selection; None if there is none."""
        return min(self.path.glob("best.*.pt"), default=None)

    def best_checkpoint(self) -> Path:
        """Return the best checkpoint by any selection.

        Raises:
            FileNotFoundError: there is none.
        """
        path = self.any_best()
        if path is None:
            raise FileNotFoundError(
                f"{self}: no best.*.pt; expected the folder of a finished run "
                "(under the paper's protocol the stage score chooses the epoch)"
            )
        return path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the folder, which is created if necessary.

        Raises:
            RuntimeError: another process holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise RuntimeError(
                f"{self}: another process is training there; wait for it or stop it"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def clear(self) -> None:
        """Remove all but the lock."""
        for path in self.path.iterdir():
            if path.name == ".lock":
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def is_empty(self) -> bool:
        """Whether there are no files but hidden ones."""
        return all(path.name.startswith(".") for path in self.path.glob("*"))

    def write_command(self) -> None:
        """Write the command of this process, unless one is stored already."""
        if not self.command.is_file():
            atomic.write_text(self.command, current_command() + "\n")

    def read_command(self) -> str:
        """Read the stored command; the present one if there is none."""
        try:
            return atomic.read_text(self.command).strip()
        except (OSError, ValueError):
            return current_command()

    def write_history(self, history: list[dict]) -> None:
        """Write one line per epoch."""
        atomic.write_text(self.history, _lines(history))

    def has_history(self, history: list[dict]) -> bool:
        """Whether history.jsonl holds exactly this history."""
        try:
            return self.history.read_bytes() == _lines(history).encode()
        except FileNotFoundError:
            return False

    def matches(self, hashes: dict[str, str]) -> bool:
        """Whether the folder has files of these names and sha256."""
        return all(
            (self.path / name).is_file() and identity.of_file(self.path / name) == sha256
            for name, sha256 in hashes.items()
        )

    def read_results(self) -> dict | None:
        """Read results.json; None if it is missing or damaged."""
        try:
            values = json.loads(self.results.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None
        return values if identity.is_sealed(values) else None

    def decision(self, checkpoint: Path) -> dict:
        """Return {"threshold", "aggregate"} as chosen in scoring a checkpoint of this folder.

        Empty if there was no such choice, or the results are those of another checkpoint.
        """
        results = self.read_results() or {}
        scored = results.get("made_from", {}).get("checkpoints", {})
        task = results.get("predominant") or results.get("tags")
        if task is None or scored.get(checkpoint.name) is None:
            return {}
        if scored[checkpoint.name] != identity.of_file(checkpoint):
            return {}
        return {"threshold": task["threshold"], "aggregate": task["score"]["aggregate"]}

    def write_results(self, values: dict) -> None:
        """Write results.json, sealed by its own sha256."""
        atomic.write_json(self.results, identity.seal(values))


def current_command() -> str:
    """Return the command line of the recipe, or else of this process."""
    return os.environ.get("AST_REPR_COMMAND") or shlex.join(["python", *sys.argv])


@dataclass(frozen=True)
class FinishedRun:
    """A scored run with a best checkpoint.

    Attributes:
        results: content of results.json.
    """

    folder: RunFolder
    results: dict

    @property
    def validation(self) -> float | None:
        """Macro-F1 of the best epoch on the validation split; None under another selection."""
        selection = self.results.get("selection") or {}
        if self.results.get("protocol") != "clean":
            return None
        if any(selection.get(key) != value for key, value in SELECTION.items()):
            return None
        return selection.get("value")

    def describe(self) -> str:
        """Describe the first of `ranked` in a line."""
        corpus = self.results.get("corpus")
        return f"the best finished run on {corpus}: macro-F1 {self.validation:.3f} on validation"


def finished(folders: Iterable[Path]) -> list[FinishedRun]:
    """List the finished runs anywhere below `folders`, sorted by folder.

    Runs on a feature that comes with its corpus are left out: they take no audio.

    Args:
        folders: each may be a run folder itself, or missing.
    """
    paths = sorted(path.parent for folder in folders for path in folder.glob("**/results.json"))
    runs = []
    for path in paths:
        folder = RunFolder(path)
        results = folder.read_results()
        if results and results.get("feature", "vggish") != "vggish" and folder.any_best():
            runs.append(FinishedRun(folder, results))
    return runs


def ranked(runs: Iterable[FinishedRun]) -> list[FinishedRun]:
    """Sort the runs that were selected on validation: by corpus, then the best first."""
    return sorted((run for run in runs if run.validation is not None), key=_rank)


def load_best(runs: Iterable[FinishedRun], load: Callable, warn: Callable[[str], None]):
    """Load the best run that can be loaded.

    Args:
        load: function from the path of a run folder to a model.
        warn: function of a line about a better run that cannot be loaded.

    Returns:
        (FinishedRun, model), or (None, None).
    """
    for run in ranked(runs):
        try:
            return run, load(run.folder.path)
        except Exception as error:  # one broken run must not hide the others
            warn(f"{run.folder}: skipped, {' '.join(str(error).split())}")
    return None, None


def _rank(run):
    corpus = run.results.get("corpus")
    place = CORPORA.index(corpus) if corpus in CORPORA else len(CORPORA)
    return place, -run.validation, str(run.folder)


def _lines(history):
    return "".join(json.dumps(row) + "\n" for row in history)
