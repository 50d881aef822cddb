"""The YAML files that a recipe adds to its reports: records by name."""

from pathlib import Path
from typing import TypeVar

from .. import typecheck, yaml_file

T = TypeVar("T")


def read(path: Path, kind: type[T]) -> dict[str, T]:
    """Build a dataclass from each entry of a YAML file.

    Raises:
        YamlError: the file is not plain YAML.
        RecordError: an entry has an unknown or missing key or a value of another type; the message
            names the file and the key.
    """
    values = yaml_file.read(path)
    if not isinstance(values, dict):
        raise typecheck.RecordError(f"{path}: a {type(values).__name__}, expected entries by name")
    entries = {}
    for name, value in values.items():
        try:
            entries[str(name)] = typecheck.build(kind, value, str(name))
        except typecheck.RecordError as error:
            raise typecheck.RecordError(f"{path}: {error}") from error
    return entries
