"""The backbones that have a name: pretrained_models/index.yaml. Without torch, so that fetching starts at once."""

from dataclasses import dataclass
from pathlib import Path

import yaml

from . import rooms

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
    labels: str
    dims: dict
    licence: str

    @property
    def path(self):
        """Where its weights are, or will be once fetched."""
        return FOLDER / self.file

    @property
    def at_hand(self):
        """Whether the file is there, with the right size. Its checksum is verified when it is downloaded."""
        return self.path.is_file() and self.bytes in (None, self.path.stat().st_size)


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
        raise ValueError(rooms.unknown("backbone", name, index))
    return Entry(name, **index[name])


def _read():
    return yaml.safe_load((FOLDER / "index.yaml").read_text(encoding="utf-8"))
