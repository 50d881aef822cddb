"""Finished runs: the folders whose model was trained, scored, and can hear sound."""

import json
import os

from . import files


def finished(folders):
    """Run folders anywhere below `folders` that hold whole results and a best checkpoint, the one scored last first.

    Runs on a feature that comes with its corpus are left out: they cannot hear a file.

    Args:
        folders: Paths; one may be a run folder itself, or not be there.

    Returns:
        list of Paths, maybe empty.
    """
    scored = (path for folder in folders for path in folder.glob("**/results.json"))
    return [
        path.parent
        for path in sorted(scored, key=os.path.getmtime, reverse=True)
        if any(path.parent.glob("best.*.pt")) and _hears(path)
    ]


def _hears(path):
    """Whether the model of a results.json hears sound; no, where that file is damaged."""
    try:
        return json.loads(files.read_text(path))["feature"] != "vggish"
    except (ValueError, KeyError, TypeError):
        return False
