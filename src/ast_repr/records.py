"""Build frozen dataclasses from plain values, as YAML holds them, checked by their annotations."""

import dataclasses
from dataclasses import dataclass
from math import inf
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from . import typecheck
from .choices import unknown

T = TypeVar("T")


class RecordError(ValueError):
    """Values that a dataclass cannot be built from; the message begins with the key."""


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`; `low` itself is excluded if `above`."""

    low: float
    high: float = inf
    above: bool = False

    def __contains__(self, value: float) -> bool:
        return self.low < value <= self.high or (value == self.low and not self.above)

    def __str__(self) -> str:
        least = "above" if self.above else "of at least"
        most = "" if self.high == inf else f" and at most {self.high:g}"
        return f"a number {least} {self.low:g}{most}"


def number(low: float, high: float = inf, above: bool = False) -> Any:
    """Declare a field of a dataclass whose values lie in a Range."""
    return dataclasses.field(metadata={"range": Range(low, high, above)})


def build(kind: type[T], values: Any, where: str = "") -> T:
    """Build a dataclass from a dict.

    Args:
        kind: its fields may be plain types (see typecheck), Literal, dataclasses, or None beside
            one of them. A class with a classmethod `from_plain(values, where)` builds itself.
        where: the dotted key of `values`, for messages.

    Raises:
        RecordError: an unknown or missing key, a value of another type or out of range.
    """
    if hasattr(kind, "from_plain"):
        return kind.from_plain(values, where)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if not isinstance(values, dict):
        raise RecordError(
            f"{where}: {typecheck.shown(values)}; expected a section with {', '.join(fields)}"
        )
    prefix = f"{where}." if where else ""
    for name in values:
        if name not in fields:
            keys = [f"{prefix}{known}" for known in fields]
            raise RecordError(f"{prefix}{name}: {unknown('key', f'{prefix}{name}', keys)}")
    hints = get_type_hints(kind)
    arguments = {}
    for name, field in fields.items():
        key = f"{prefix}{name}"
        if name in values:
            arguments[name] = check(key, values[name], hints[name], field.metadata.get("range"))
        elif field.default is dataclasses.MISSING:
            raise RecordError(f"{key}: missing; expected {_words(hints[name])}")
    return kind(**arguments)


def check(key: str, value: Any, hint: Any, numbers: Range | None = None) -> Any:
    """Check a value against an annotation and a range; dataclasses are built.

    Raises:
        RecordError: see `build`.
    """
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise RecordError(f"{key}: {unknown('choice', value, get_args(hint))}")
        return value
    kinds = get_args(hint) or (hint,)
    for kind in kinds:
        if dataclasses.is_dataclass(kind):
            optional = value is None and NoneType in kinds
            return None if optional else build(kind, value, key)
    if not typecheck.matches(value, hint):
        raise RecordError(f"{key}: {typecheck.shown(value)}; expected {_words(hint)}")
    if numbers is not None and value is not None and value not in numbers:
        raise RecordError(f"{key}: {typecheck.shown(value)}; expected {numbers}")
    return value


def _words(hint):
    """An annotation in words."""
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if any(dataclasses.is_dataclass(kind) for kind in get_args(hint) or (hint,)):
        return "a section"
    return typecheck.expected(hint)
