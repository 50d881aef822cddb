"""Check plain values, as in JSON and YAML, against type annotations.

`int`, `float` (any finite number), `bool`, `str`, `dict`, `list[...]`, `Sequence[...]` and unions
of them are checked; any other annotation, or none, allows anything.
"""

import inspect
import math
import reprlib
from collections.abc import Sequence
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

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
    return NAMES.get(annotation, inspect.formatannotation(annotation))
