"""Names of corpora: the folder of a name belongs to one corpus."""

import json
import os
from pathlib import Path

from .. import atomic

SOURCE = "source.json"


def claim(folder: Path, root: Path) -> None:
    """Record the corpus that a folder is prepared from; refuse a second one of the same name.

    A corpus below the folder's parent is recorded by its relative path, so that the tree can be
    copied. If the recorded corpus no longer exists, the new one takes its place.

    Args:
        folder: folder of the manifest and the features.
        root: folder or CSV of the corpus.

    Raises:
        ValueError: another existing corpus has the name.
    """
    source = root.resolve()
    recorded = str(source)
    if source.is_relative_to(folder.parent.resolve()):
        recorded = os.path.relpath(source, folder.resolve())
    previous = _read(folder / SOURCE)
    if previous == recorded:
        return
    if previous is not None and (folder / previous).exists():
        raise ValueError(
            f"{source}: the name {folder.name} belongs to {previous}; rename one of the two, or "
            f"delete {folder} and its experiments"
        )
    atomic.write_json(folder / SOURCE, {"source": recorded})


def _read(path: Path) -> str | None:
    """Read the recorded path; None if there is none, or the file is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))["source"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
