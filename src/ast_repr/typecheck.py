"""Checks of plain values, as in JSON and YAML, against type annotations.

`int`, `float` (finite), `bool`, `str`, `dict`, `list[...]`, `Sequence[...]` and unions of them are
checked, and by `build` Literal and dataclasses. Any other annotation, or none, allows anything.
"""

import dataclasses
import inspect
import math
import reprlib
from collections.abc import Sequence
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from .choices import unknown

NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    dict: "a section of names and values",
    list: "a list",
    NoneType: "null",
}
LARGEST = 2**63 - 1  # of torch's integers

T = TypeVar("T")


class RecordError(ValueError):
    """Values that a dataclass cannot be built from; the message begins with the key."""


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`; `low` itself is excluded if `above`."""

    low: float
    high: float = math.inf
    above: bool = False

    def __contains__(self, value: float) -> bool:
        return self.low < value <= self.high or (value == self.low and not self.above)

    def __str__(self) -> str:
        least = "above" if self.above else "of at least"
        most = "" if self.high == math.inf else f" and at most {self.high:g}"
        return f"a number {least} {self.low:g}{most}"


def number(
    low: float, high: float = math.inf, above: bool = False, default: Any = dataclasses.MISSING
) -> Any:
    """Declare a field of a dataclass whose values lie in a Range."""
    return dataclasses.field(default=default, metadata={"range": Range(low, high, above)})


def build(kind: type[T], values: Any, where: str = "") -> T:
    """Build a dataclass from a dict.

    Args:
        kind: dataclass of plain types, Literal and dataclasses. A class with a classmethod
            `from_plain(values, where)` builds itself.
        where: the dotted key of `values`, for messages.

    Raises:
        RecordError: an unknown or missing key, a value of another type or out of range.
    """
    if hasattr(kind, "from_plain"):
        return kind.from_plain(values, where)
    hints = get_type_hints(kind)
    if not isinstance(values, dict):
        raise RecordError(f"{where}: {shown(values)}; expected a section with {', '.join(hints)}")
    prefix = f"{where}." if where else ""
    for name in values:
        if name not in hints:
            known = [prefix + field for field in hints]
            raise RecordError(f"{prefix}{name}: {unknown('key', f'{prefix}{name}', known)}")
    arguments = {}
    for field in dataclasses.fields(kind):
        key = prefix + field.name
        hint = hints[field.name]
        if field.name in values:
            numbers = field.metadata.get("range")
            arguments[field.name] = check(key, values[field.name], hint, numbers)
        elif field.default is field.default_factory is dataclasses.MISSING:
            raise RecordError(f"{key}: missing; expected {expected(hint)}")
    return kind(**arguments)


def check(key: str, value: Any, hint: Any, numbers: Range | None = None) -> Any:
    """Check a value against an annotation and a range; dataclasses are built.

    Raises:
        RecordError: see `build`.
    """
    kinds = get_args(hint) or (hint,)
    if get_origin(hint) is Literal and value not in kinds:
        raise RecordError(f"{key}: {unknown('choice', value, kinds)}")
    if value is not None or NoneType not in kinds:
        for kind in filter(dataclasses.is_dataclass, kinds):
            return build(kind, value, key)
    if not matches(value, hint):
        raise RecordError(f"{key}: {shown(value)}; expected {expected(hint)}")
    if numbers is not None and value is not None and value not in numbers:
        raise RecordError(f"{key}: {shown(value)}; expected {numbers}")
    return value


def shown(value: Any) -> str:
    """Return a value's repr for a message, shortened if it is long or deep."""
    short = reprlib.Repr()
    short.maxlevel = 3
    short.maxstring = 200
    short.maxlong = 200
    return short.repr(value)


def matches(value: Any, annotation: Any) -> bool:
    """True if a value has the annotated type; booleans are not numbers, and numbers are finite.

    >>> matches(3, float), matches(True, int), matches([1, 2], list[int]), matches(None, int | None)
    (True, False, True, True)
    """
    origin = get_origin(annotation)
    inner = get_args(annotation)
    if origin in (Union, UnionType):
        return any(matches(value, choice) for choice in inner)
    if origin in (list, Sequence):
        return isinstance(value, list | tuple) and all(matches(item, inner[0]) for item in value)
    if annotation is int:
        return type(value) is int and abs(value) <= LARGEST
    if annotation is float:
        return matches(value, int) or (isinstance(value, float) and math.isfinite(value))
    if annotation in NAMES:
        return isinstance(value, annotation)
    return True


def expected(annotation: Any) -> str:
    """Describe an annotation in words.

    >>> expected(list[int] | None)
    'a list, each item a whole number, or null'
    """
    origin = get_origin(annotation)
    inner = get_args(annotation)
    if origin in (Union, UnionType):
        return ", or ".join(map(expected, inner))
    if origin in (list, Sequence):
        return f"a list, each item {expected(inner[0])}"
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if dataclasses.is_dataclass(annotation):
        return "a section"
    return NAMES.get(annotation, inspect.formatannotation(annotation))
