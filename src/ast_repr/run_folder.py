"""The folder of one run: the names of its files, its lock, and its results.

last.pt             state after the last epoch, the history, the best checkpoint: the truth
best.<split>.<metric>.pt     the best checkpoint; a copy of what last.pt holds
epoch.<number>.pt   where the selection is on test: the checkpoint of each epoch
history.jsonl       one line per epoch, to be read by people; a copy of what last.pt holds
config.yaml         the resolved config; a copy too
command.txt         the command that started the training, for reports
results.json        scores, and what they were made from; it carries its own sha256
predictions.npz, example.npz     written by the stage `score` too
"""

import json
import os
import shlex
import shutil
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from . import atomic, identity


@dataclass(frozen=True)
class RunFolder:
    """One run's files; none of them need be there."""

    path: Path

    @classmethod
    def of(cls, experiments: str | Path, conf: str, seed: int) -> "RunFolder":
        """The folder of a conf and seed among those of a corpus."""
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
        """The run that trains the head alone before the loop."""
        return RunFolder(self.path / "head")

    def best(self, split: str, metric: str) -> Path:
        """The best checkpoint; the split that chose it is in its name."""
        return self.path / f"best.{split}.{metric}.pt"

    def epoch(self, number: int) -> Path:
        """The checkpoint of one epoch, if each is kept."""
        return self.path / f"epoch.{number:03d}.pt"

    def any_best(self) -> Path | None:
        """The best checkpoint, whatever chose it; None if there is none."""
        return min(self.path.glob("best.*.pt"), default=None)

    @contextmanager
    def locked(self):
        """Hold the lock of the folder, which is made if need be.

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
        """Whether it holds nothing; hidden files do not count."""
        return all(path.name.startswith(".") for path in self.path.glob("*"))

    def write_command(self) -> None:
        """Write the command that starts the run, unless it is written already."""
        if not self.command.is_file():
            atomic.write_text(self.command, current_command() + "\n")

    def read_command(self) -> str:
        """Read the command that started the run; the present one if it is not known."""
        try:
            return atomic.read_text(self.command).strip()
        except (OSError, ValueError):
            return current_command()

    def write_history(self, history: list[dict]) -> None:
        """Write one line per epoch."""
        atomic.write_text(self.history, _lines(history))

    def has_history(self, history: list[dict]) -> bool:
        """Whether history.jsonl says just this."""
        return _content(self.history) == _lines(history).encode()

    def matches(self, hashes: dict[str, str]) -> bool:
        """Whether the folder has files of these names and sha256."""
        return all(
            (self.path / name).is_file() and identity.of_file(self.path / name) == sha256
            for name, sha256 in hashes.items()
        )

    def read_results(self) -> dict | None:
        """What results.json holds; None if there is none, or it is not as it was written."""
        try:
            values = json.loads(self.results.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None
        return values if identity.is_sealed(values) else None

    def write_results(self, values: dict) -> None:
        """Write results.json with its own sha256."""
        atomic.write_json(self.results, identity.seal(values))


def current_command() -> str:
    """The command that started this process: a recipe's, if it was one, or the script's own."""
    return os.environ.get("AST_REPR_COMMAND") or shlex.join(["python", *sys.argv])


def _lines(history):
    return "".join(json.dumps(row) + "\n" for row in history)


def _content(path):
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
