"""What files hold, without what differs from run to run, so that two runs can be compared.

Left out are measured times, hashes of what holds them, the name of the commit, and what PNG and PDF
files show. Files of embeddings are known by their content: their names are hashes, too.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import torch
import yaml
from safetensors import safe_open

TIMES = ("seconds", "mtime")  # parts of the keys that say when or how long
OF_TIMES = (
    "commit",
    "hashes",
    "checkpoints",
    "files",
    "best",
)  # keys; a commit, and hashes of times
CACHES = ("file_hashes.json",)  # of times of files; there or not, nothing else depends on them
TEMPORARY = (".partial", ".tmp", ".temp")  # parts of the names of files that must not stay
LOCKS = ".lock"  # a lock's file may stay: what counts is whether somebody holds it


def tree(folder: Path) -> dict[str, str]:
    """{path relative to `folder`: digest} of every file below it but locks and caches."""
    found = {}
    for path in files(folder):
        name = path.relative_to(folder).as_posix()
        if path.parent.name == "embeddings" and not temporary(path):
            name = f"{path.parent.relative_to(folder).as_posix()}/{digest(path)}"
        found[name] = digest(path)
    return found


def files(folder: Path) -> Iterator[Path]:
    """Every file below a folder but locks and caches, sorted; links are not followed to folders."""
    for path in sorted(folder.rglob("*")):
        passing = path.name.endswith(LOCKS) or path.name in CACHES or "__pycache__" in path.parts
        if not passing and not path.is_dir():
            yield path


def temporary(path: Path) -> bool:
    """Whether a file's name says that it is not to stay."""
    return any(mark in path.name for mark in TEMPORARY)


def digest(path: Path) -> str:
    """Hash the content of a file; all of its bytes if its kind is unknown or it is damaged."""
    if temporary(path):
        return "temporary"
    read = READERS.get(path.suffix, Path.read_bytes)
    try:
        value = read(path)
    except Exception:  # a damaged file is one that differs, however its reader complains
        value = path.read_bytes()
    return digest_of(value)


def digest_of(value: object) -> str:
    """A hash of nested plain values, arrays and tensors, without what is volatile."""
    return hashlib.sha256(repr(_plain(value)).encode()).hexdigest()[:16]


def _plain(value):
    """The same value with arrays and tensors as bytes, sorted, without times."""
    if isinstance(value, dict):
        kept = {
            str(key): _plain(item)
            for key, item in value.items()
            if key not in OF_TIMES and not any(part in str(key) for part in TIMES)
        }
        return sorted(kept.items())
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().contiguous()
        data = value.reshape(-1).view(torch.uint8).numpy().tobytes()
        return str(value.dtype), tuple(value.shape), hashlib.sha256(data).hexdigest()
    if isinstance(value, np.ndarray | np.generic):
        value = np.ascontiguousarray(value)
        data = value.tolist() if value.dtype == object else value.tobytes()
        return str(value.dtype), value.shape, hashlib.sha256(repr(data).encode()).hexdigest()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return repr(value)


def _json(path):
    """A JSON file without the hash of itself."""
    found = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(found, dict):
        found.pop("sha256", None)
    return found


def _json_lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _yaml(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _markdown(path):
    """The lines of a page; of a table of times the first column only."""
    lines, timed = [], False
    for line in path.read_text(encoding="utf-8").splitlines():
        timed = line.startswith("|") and (timed or "s per epoch" in line)
        lines.append(line.split(" | ")[0] if timed else line)
    return lines


def _checkpoint(path):
    return torch.load(path, map_location="cpu", weights_only=True)


def _arrays(path):
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _hdf5(path):
    found = {}
    with h5py.File(path) as file:
        found["attributes"] = {name: str(value) for name, value in file.attrs.items()}
        for name, dataset in file.items():
            found[name] = np.asarray(dataset[()])
    return found


def _safetensors(path):
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        names = file.keys()
        tensors = {name: file.get_tensor(name) for name in names}
    texts = {name: _loaded(text) for name, text in metadata.items()}
    return {"metadata": texts, "tensors": tensors}


def _loaded(text):
    try:
        return json.loads(text)
    except ValueError:
        return text


def _picture(path):
    """Only whether it is whole: a PDF holds the time at which it was made."""
    data = path.read_bytes()
    return data[:4] in (b"\x89PNG", b"%PDF") and (b"IEND" in data[-16:] or b"%%EOF" in data[-16:])


READERS = {
    ".json": _json,
    ".jsonl": _json_lines,
    ".yaml": _yaml,
    ".md": _markdown,
    ".pt": _checkpoint,
    ".npz": _arrays,
    ".h5": _hdf5,
    ".safetensors": _safetensors,
    ".png": _picture,
    ".pdf": _picture,
}
