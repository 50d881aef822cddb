"""Registries: dicts of names to classes, and building an entry by name.

`build` looks a name up in its registry and nowhere else, so a name that comes from a file chooses
among this project's own classes. A class outside the package is named "module.Class", in a module
on Python's path. Only `resolve` imports it, and only if the caller allows that very name.
"""

import importlib
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

from . import typecheck
from .choices import unknown


class NotAllowedError(ValueError):
    """A class outside the package that the caller did not allow; none of it was imported."""


def is_outside(name: str) -> bool:
    """True if a name has the form "module.Class"."""
    parts = name.split(".")
    return len(parts) > 1 and all(part.isidentifier() for part in parts)


def outside(sections: Mapping[str, Any]) -> set[str]:
    """Collect the names of classes outside the package from {kind: section}.

    >>> outside({"head": {"name": "mine.Head"}, "method": {"name": "supervised"}, "row": None})
    {'mine.Head'}
    """
    names = [section.get("name") for section in sections.values() if isinstance(section, dict)]
    return {name for name in names if isinstance(name, str) and is_outside(name)}


def resolve(kind: str, section: dict, allow: Collection[str], given: Collection[str] = ()) -> dict:
    """Replace a name "module.Class" in a section by the class; other names are kept.

    Args:
        kind: kind of the class, for messages ("reprogrammer").
        section: {"name": ..., its options}.
        allow: names of classes outside the package that may be imported.
        given: options that other sections or the data determine.

    Raises:
        NotAllowedError: the class is not allowed.
        ValueError: there is no such class, or the section sets an option of `given`.
    """
    name = section["name"]
    allow = [allow] if isinstance(allow, str) else allow  # a plain string would allow substrings
    for key in given:
        if key in section:
            raise ValueError(f"option {key} of {kind} {name!r}: it is set elsewhere; leave it out")
    if not is_outside(name):
        return section
    if name not in allow:
        raise NotAllowedError(
            f"{kind} {name!r}: a class outside this project, which is not run unasked; "
            f"if you trust it, allow it by --allow-class {name} (in Python: allow=({name!r},))"
        )
    return section | {"name": _import(kind, name)}


def build(
    kind: str,
    entries: Mapping[str, Callable],
    name: str | type,
    kwargs: dict[str, Any],
    offered: Mapping[str, Any] | None = None,
) -> Any:
    """Return `entries[name](**kwargs)`.

    Args:
        kind: kind of the entries, for messages ("reprogrammer").
        entries: the registry.
        name: an entry's name, or a class as returned by `resolve`.
        kwargs: keywords of the entry.
        offered: further keywords, which it gets only if it takes them.

    Raises:
        ValueError: an unknown name or keyword (the message lists the valid ones), a missing
            keyword, or a value of the wrong type.
    """
    entry = name if inspect.isclass(name) else entries.get(name)
    if entry is None:
        raise ValueError(unknown(kind, name, entries))
    if inspect.isclass(name):
        name = f"{name.__module__}.{name.__qualname__}"
    parameters = inspect.signature(entry).parameters
    kwargs = kwargs | {key: value for key, value in (offered or {}).items() if key in parameters}
    for key, value in kwargs.items():
        if key not in parameters:
            raise ValueError(unknown(f"option of {kind} {name!r}", key, parameters))
        annotation = parameters[key].annotation
        if not typecheck.matches(value, annotation):
            raise ValueError(
                f"option {key} of {kind} {name!r}: {typecheck.shown(value)}; "
                f"expected {typecheck.expected(annotation)}"
            )
    missing = [key for key, p in parameters.items() if p.default is p.empty and key not in kwargs]
    if missing:
        raise ValueError(f"{kind} {name!r} needs: {', '.join(missing)}")
    return entry(**kwargs)


def _import(kind, name):
    module, _, attribute = name.rpartition(".")
    try:
        entry = getattr(importlib.import_module(module), attribute, None)
    except ImportError as error:
        raise ValueError(
            f"{kind} {name!r}: {error}; "
            f"put the folder of {module.partition('.')[0]}.py on PYTHONPATH"
        ) from error
    if not inspect.isclass(entry):
        raise ValueError(f"{kind} {name!r}: found no class {attribute} in {module}")
    return entry
