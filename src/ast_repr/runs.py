"""Finished runs: the folders whose model was trained, scored, and can hear sound."""

import os
from pathlib import Path

from .run_folder import RunFolder


def finished(folders: list[Path]) -> list[Path]:
    """Run folders that hold whole results and a best checkpoint, the one scored last first.

    Runs on a feature that comes with its corpus are left out: they cannot hear a file.

    Args:
        folders: one may be a run folder itself, or not be there; all folders below are looked at.
    """
    scored = (path for folder in folders for path in folder.glob("**/results.json"))
    return [
        path.parent
        for path in sorted(scored, key=os.path.getmtime, reverse=True)
        if _can_hear(RunFolder(path.parent))
    ]


def _can_hear(run):
    results = run.read_results()
    if results is None or run.any_best() is None:
        return False
    return results.get("feature") not in (None, "vggish")
