"""The backbones that have a name: pretrained_models/index.yaml.

Without torch, so that fetching starts at once.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from . import atomic, identity, registry, yaml_file

FOLDER = Path(__file__).resolve().parents[2] / "pretrained_models"


@dataclass(frozen=True)
class Entry:
    """What index.yaml says of one backbone; its head explains the fields."""

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
    def path(self):
        """Where its weights are, or will be once fetched."""
        return FOLDER / self.file

    def source_classes(self):
        """Names of the source classes, in order; None if they are in the file's header."""
        return self.labels and atomic.read_text(FOLDER / self.labels).splitlines()

    @property
    def is_available(self):
        """Whether the file is there, with the right size; `verify` looks at its content."""
        return self.path.is_file() and self.bytes in (None, self.path.stat().st_size)

    def verify(self) -> None:
        """Compare the file with the known sha256; 346 MB take a third of a second.

        Raises:
            ValueError: it is another one, or damaged; the message says what to do.
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


def names():
    """The names, in the order of the file."""
    return list(_read())


def find(name):
    """The Entry of a backbone.

    Raises:
        ValueError: there is none of that name; the message lists what there is.
    """
    index = _read()
    if name not in index:
        raise ValueError(registry.unknown("backbone", name, index))
    return Entry(name, **index[name])


def zero_shot(name):
    """What instruments.yaml says of a backbone.

    Returns:
        {"activation": of its source classes, "names": {instrument: [source class, ...]}}.

    Raises:
        ValueError: it says nothing of that one; the message lists what there is.
    """
    table = _read("instruments.yaml")
    if name not in table:
        raise ValueError(
            f"zero-shot: {registry.unknown('backbone of instruments.yaml', name, table)}"
        )
    return table[name]


def _read(file="index.yaml"):
    return yaml_file.read(FOLDER / file)
