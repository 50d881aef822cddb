"""Finished runs: trained, scored, with a model that can hear sound; and the one to take unasked."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from .run_folder import RunFolder

CORPORA = ("openmic", "synthetic")  # of the main job, the one to be preferred first
SELECTION = {"split": "valid", "metric": "macro_f1", "mode": "max"}  # of the protocol `clean`


@dataclass(frozen=True)
class Candidate:
    """A finished run that may be taken where nobody has named one.

    Attributes:
        folder: of the run.
        corpus: that it was trained on.
        value: macro-F1 of its best epoch on the validation split; test metrics choose nothing.
    """

    folder: Path
    corpus: str
    value: float

    @property
    def why(self) -> str:
        """The reason to take it, if it is the first that `ranked` gives."""
        return f"the best finished run on {self.corpus}: macro-F1 {self.value:.3f} on validation"


def finished(folders: Iterable[Path]) -> list[Path]:
    """Run folders anywhere below `folders` that hold whole results and a best checkpoint, sorted.

    Runs on a feature that comes with its corpus are left out: they cannot hear a file.

    Args:
        folders: one may be a run folder itself, or not be there.
    """
    return [folder for folder, _ in _finished(folders)]


def ranked(folders: Iterable[Path]) -> list[Candidate]:
    """The `finished` runs that were chosen on validation as in the main job, the best one first.

    Runs on OpenMIC-2018 come before those on the built-in corpus, and these before all others.
    """
    candidates = []
    for folder, results in _finished(folders):
        selection = results.get("selection") or {}
        same = all(selection.get(key) == value for key, value in SELECTION.items())
        value = selection.get("value")
        if same and results.get("protocol") == "clean" and value is not None:
            candidates.append(Candidate(folder, results.get("corpus"), value))
    return sorted(candidates, key=_rank)


def choose(folders: Iterable[Path], load: Callable, say: Callable):
    """Load the best run that can be loaded.

    Args:
        folders: see `finished`.
        load: run folder -> model.
        say: called with a line for each better run that cannot be loaded.

    Returns:
        (Candidate, model), or None where there is none.
    """
    for candidate in ranked(folders):
        try:
            return candidate, load(candidate.folder)
        except Exception as error:  # whatever is wrong with one run must not hide the others
            say(f"{candidate.folder}: passed over, {' '.join(str(error).split())}")
    return None


def _rank(candidate):
    known = candidate.corpus in CORPORA
    place = CORPORA.index(candidate.corpus) if known else len(CORPORA)
    return place, -candidate.value, str(candidate.folder)


def _finished(folders):
    """(run folder, results) of each, sorted by folder."""
    runs = []
    for path in sorted(path for folder in folders for path in folder.glob("**/results.json")):
        run = RunFolder(path.parent)
        results = run.read_results()
        if results and results.get("feature", "vggish") != "vggish" and run.any_best():
            runs.append((run.path, results))
    return runs
