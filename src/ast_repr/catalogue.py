"""The backbones that have a name, from pretrained_models/index.yaml.

Without torch, so that fetching starts at once.
"""

from dataclasses import dataclass
from pathlib import Path

from . import rooms, yaml_file

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
        """Names of the source classes by index, or None where they are in the file's header."""
        return self.labels and (FOLDER / self.labels).read_text(encoding="utf-8").splitlines()

    @property
    def at_hand(self):
        """Whether the file is there, with the right size; downloading verifies its checksum."""
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


def zero_shot(name):
    """What instruments.yaml says of a backbone.

    Returns:
        {"activation": of its source classes, "names": {instrument: [source class, ...]}}.

    Raises:
        ValueError: it says nothing of that one; the message lists what there is.
    """
    table = _read("instruments.yaml")
    if name not in table:
        raise ValueError(f"zero-shot: {rooms.unknown('backbone of instruments.yaml', name, table)}")
    return table[name]


def _read(file="index.yaml"):
    return yaml_file.read(FOLDER / file)
