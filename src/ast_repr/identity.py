"""Identities: the sha256 of files and values; names and modification times decide nothing.

A file of plain values carries its own sha256 under the key "sha256" (`seal`, `is_sealed`).
"""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from . import atomic

SETTLED_NS = 2_000_000_000  # a younger file might change again within one tick of its clock


def of_bytes(data: bytes) -> str:
    """Return the hexadecimal sha256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def of_file(path: str | Path) -> str:
    """Return the hexadecimal sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_values(values: Any) -> str:
    """Return the hexadecimal sha256 of JSON values; the order of keys does not matter."""
    return of_bytes(json.dumps(values, sort_keys=True).encode())


def seal(values: dict) -> dict:
    """Return `values` with their sha256 under "sha256"."""
    content = {key: value for key, value in values.items() if key != "sha256"}
    return content | {"sha256": of_values(content)}


def is_sealed(values: Any) -> bool:
    """True if `seal` made these values and they are unchanged."""
    return isinstance(values, dict) and "sha256" in values and seal(values) == values


class FileHashes:
    """A cache of the sha256 of files, by their size, times and inode.

    The time of change (ctime) is part of the key because, unlike the modification time, it cannot
    be set back.

    Args:
        path: JSON file that keeps the hashes for the next process, ignored if damaged; None keeps
            them in memory.
    """

    def __init__(self, path: Path | None = None):
        self.path = path
        self._known = _read(path) if path else {}
        self._saved = dict(self._known)

    def of(self, path: str | Path) -> str:
        """Return the hexadecimal sha256 of one file."""
        key = str(path)
        stamp = _stamp(path)
        if key in self._known and self._known[key]["stamp"] == stamp:
            return self._known[key]["sha256"]
        self._known.pop(key, None)
        sha256 = of_file(path)
        settled = stamp["ctime_ns"] < time.time_ns() - SETTLED_NS
        if settled and _stamp(path) == stamp:
            self._known[key] = {"stamp": stamp, "sha256": sha256}
        return sha256

    def of_all(self, paths: Sequence[str | Path], label: str) -> list[str]:
        """Hash many files in threads, with a progress bar called `label`, and save the hashes."""
        with ThreadPoolExecutor() as pool:
            hashing = pool.map(self.of, paths)
            bar = tqdm(hashing, label, len(paths), unit="file", leave=False, disable=None)
            hashes = list(bar)
        known = {str(path): self._known[str(path)] for path in paths if str(path) in self._known}
        if self.path and known != self._saved:
            atomic.write_json(self.path, seal({"files": known}))
            self._saved = known
        return hashes


def _stamp(path: str | Path) -> dict[str, int]:
    status = os.stat(path)
    return {
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "ctime_ns": status.st_ctime_ns,
        "inode": status.st_ino,
    }


def _read(path: Path) -> dict[str, dict]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return values["files"] if is_sealed(values) else {}
