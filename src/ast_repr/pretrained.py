"""Catalogue of the pretrained backbones (pretrained_models/index.yaml), and the shipped model.

It does not import torch, so that fetching starts at once.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from . import atomic, identity, registry, yaml_file


def _folder():
    """Find pretrained_models: inside the package in a wheel, at the top level in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "pretrained_models"
    return inside if inside.is_dir() else package.parents[1] / "pretrained_models"


FOLDER = _folder()
MODEL = "ast_unet_residual_synth"  # folder of the trained model that is shipped


@dataclass(frozen=True)
class Entry:
    """One backbone of index.yaml, whose header explains the fields."""

    name: str
    file: str
    url: str | None
    bytes: int | None
    sha256: str | None
    mean: float | None
    std: float | None
    layout: str
    labels: str | None
    dims: dict
    licence: str

    @property
    def path(self) -> Path:
        """The file of its weights, which may have to be fetched."""
        return FOLDER / self.file

    def source_classes(self) -> list[str] | None:
        """Names of the source classes, in order; None if they are in the file's header."""
        return self.labels and atomic.read_text(FOLDER / self.labels).splitlines()

    @property
    def is_available(self) -> bool:
        """Whether the file exists with the right size; `verify` checks its content."""
        return self.path.is_file() and self.bytes in (None, self.path.stat().st_size)

    def verify(self) -> None:
        """Compare the file with the known sha256; 346 MB take a third of a second.

        Raises:
            ValueError: it is another file, or damaged.
            OSError: it cannot be read.
        """
        found = identity.of_file(self.path)
        if self.sha256 in (None, found):
            return
        place = os.path.relpath(self.path)
        remedy = f"delete it and run the stage `fetch`, which downloads {self.url}"
        if self.url is None:
            remedy = f"it is part of the repository: git checkout {place}"
        raise ValueError(f"{place}: found sha256 {found}, expected {self.sha256}; {remedy}")


def verify_weights(name: str, path: str | Path) -> None:
    """Verify a file of weights, if it is the catalogue's own for the backbone `name`.

    Raises: as `Entry.verify`.
    """
    if name in names():
        entry = find(name)
        if Path(path).resolve() == entry.path.resolve():
            entry.verify()


def shipped_model() -> Path:
    """Folder of the trained model that is shipped, as src/export.py wrote it."""
    return FOLDER / MODEL


def names() -> list[str]:
    """List the names of the backbones, in the order of the file."""
    return list(_read("index.yaml"))


def find(name: str) -> Entry:
    """Return the Entry of a backbone.

    Raises:
        ValueError: the name is unknown; the message lists the known ones.
    """
    index = _read("index.yaml")
    if name not in index:
        raise ValueError(registry.unknown("backbone", name, index))
    return Entry(name, **index[name])


def zero_shot(name: str) -> dict:
    """Return the section of instruments.yaml about a backbone.

    Returns:
        {"activation": of its source classes, "names": {instrument: [source class, ...]}}.

    Raises:
        ValueError: it has none; the message lists the backbones that have one.
    """
    table = _read("instruments.yaml")
    if name not in table:
        raise ValueError(
            f"zero-shot: {registry.unknown('backbone of instruments.yaml', name, table)}"
        )
    return table[name]


def _read(file):
    return yaml_file.read(FOLDER / file)
