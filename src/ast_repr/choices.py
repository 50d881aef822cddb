"""Names that a user chooses from, and the error for any other.

Standard library only, from Python 3.8 on: recipes check their options before any environment
exists.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path

# Kinds of corpora; of two trained models that of the earlier kind is preferred.
CORPORA = (
    "openmic",
    "irmas",
    "magnatagatune",
    "synthetic",
    "irmas_synthetic",
    "magnatagatune_synthetic",
    "custom",
)
TAG_SPLITS = ("clean", "full", "artist")  # of MagnaTagATune
TRANSFORMERS = ("ast", "passt")  # backbones
MUSICNN_ADAPTERS = ("ssf", "bitfit")  # the others need transformer blocks
TOKEN_HEADS = ("attentive_pooling", "prototypes")  # they need a transformer's tokens
SOURCE_HEADS = ("labelmap", "statistical_labelmap")  # they need source classes
WITHOUT_SOURCE_CLASSES = ("vggish",)  # pre-trained networks
FEATURE_STORAGE = ("auto", "device", "memory", "disk")  # where training keeps features
NOT_CONFS = ("base", "studies", "published", "contrasts")
OVERLAYS = ("protocol_", "corpus_", "backbone_")  # prefixes of files that are merged into any conf


def unknown(kind: str, name: object, choices: Iterable) -> str:
    """Make the message for a name that is not among `choices`; it suggests the nearest one."""
    choices = sorted(map(str, choices))
    nearest = difflib.get_close_matches(str(name)[:200], choices, n=1)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    return f"unknown {kind} {name!r}: {hint}valid: {', '.join(choices) or 'none'}"


def confs(folder: str | Path) -> list[str]:
    """List the confs of a folder, sorted."""
    stems = sorted(path.stem for path in Path(folder).glob("*.yaml"))
    return [stem for stem in stems if stem not in NOT_CONFS and not stem.startswith(OVERLAYS)]


def protocols(folder: str | Path) -> list[str]:
    """List the evaluation protocols of a folder of confs, the default first."""
    files = sorted(Path(folder).glob("protocol_*.yaml"))
    return ["clean", *(path.stem[len("protocol_") :] for path in files)]


def studies(folder: str | Path) -> list[str]:
    """List the studies of a folder of confs."""
    path = Path(folder) / "studies.yaml"
    return keys(path) if path.is_file() else []


def keys(path: Path) -> list[str]:
    """List the top-level keys of a YAML file, without a parser of YAML."""
    return re.findall(r"^(\w+):", path.read_text(encoding="utf-8"), re.MULTILINE)
