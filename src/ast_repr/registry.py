"""What every room shares: building one of its entries by name, with errors that list the choices.

A room is a registry, a dict of names to classes. `build` looks names up there and nowhere else, so
a name that comes from a file chooses among this project's own classes. A class outside of the
package has a name with a dot, "module.Class", in a module that Python finds (PYTHONPATH). Only
`resolve` imports it, and only if the caller allows that very name.
"""

import importlib
import inspect
from collections.abc import Collection

from . import typecheck
from .choices import unknown


class NotAllowedError(ValueError):
    """A class outside of the package that the caller did not allow; nothing of it was imported."""


def is_outside(name: str) -> bool:
    """Whether a name is of the form "module.Class"."""
    parts = name.split(".")
    return len(parts) > 1 and all(part.isidentifier() for part in parts)


def outside(sections: dict) -> set[str]:
    """Names of classes outside of the package in the sections of a config.

    >>> outside({"head": {"name": "mine.Head"}, "method": {"name": "supervised"}, "row": None})
    {'mine.Head'}
    """
    names = [section.get("name") for section in sections.values() if isinstance(section, dict)]
    return {name for name in names if isinstance(name, str) and is_outside(name)}


def resolve(kind: str, section: dict, allow: Collection[str], given: Collection[str] = ()) -> dict:
    """A section with the class in place of a name "module.Class"; other names stay as they are.

    Args:
        kind: of the room, for messages ("reprogrammer").
        section: {"name": ..., its options}.
        allow: the names of classes outside of the package that may be imported, and no others.
        given: options that follow from other sections or from the data.

    Raises:
        NotAllowedError: the name stands for a class that is not allowed.
        ValueError: there is no such class, or an option is given already.
    """
    name = section["name"]
    allow = [allow] if isinstance(allow, str) else allow  # of a text, any part would be allowed
    for key in given:
        if key in section:
            raise ValueError(f"option {key} of {kind} {name!r}: it is given already; leave it out")
    if not is_outside(name):
        return section
    if name not in allow:
        raise NotAllowedError(
            f"{kind} {name!r}: a class outside of this project, which is not run unasked; "
            f"if you trust it, allow it by --allow-class {name} (in Python: allow=({name!r},))"
        )
    return section | {"name": _import(kind, name)}


def build(kind, room, name, kwargs, offered=None):
    """Return `room[name](**kwargs)`.

    Args:
        kind: what the room holds, for messages ("reprogrammer").
        room: dict of names to classes.
        name: of an entry; or a class, as `resolve` gives it.
        kwargs: its keywords.
        offered: keywords that it gets if it takes them.

    Raises:
        ValueError: the name, or a keyword, is not there (the message lists what is), or a value has
            the wrong type.
    """
    entry = _find(kind, room, name)
    parameters = inspect.signature(entry).parameters
    kwargs = kwargs | {key: value for key, value in (offered or {}).items() if key in parameters}
    _check_options(kind, _name_of(name), parameters, kwargs, kwargs.keys())
    return entry(**kwargs)


def check(kind, room, name, options, offered=()):
    """Refuse what `build` would refuse for its name and options, without building anything.

    Args:
        options: keywords that a user has chosen.
        offered: names of those that the entry will get besides, if it takes them.

    Raises:
        ValueError: as `build`.
    """
    parameters = inspect.signature(_find(kind, room, name)).parameters
    given = options.keys() | (set(offered) & parameters.keys())
    _check_options(kind, _name_of(name), parameters, options, given)


def _find(kind, room, name):
    entry = name if inspect.isclass(name) else room.get(name)
    if entry is None:
        raise ValueError(unknown(kind, name, room))
    return entry


def _name_of(name):
    return f"{name.__module__}.{name.__qualname__}" if inspect.isclass(name) else name


def _check_options(kind, name, parameters, options, given):
    """Refuse options that the entry does not take, or of a wrong type, and any that is lacking."""
    for key, value in options.items():
        if key not in parameters:
            raise ValueError(unknown(f"option of {kind} {name!r}", key, parameters))
        annotation = parameters[key].annotation
        if not typecheck.matches(value, annotation):
            raise ValueError(
                f"option {key} of {kind} {name!r}: {typecheck.shown(value)}; "
                f"expected {typecheck.expected(annotation)}"
            )
    missing = [key for key, p in parameters.items() if p.default is p.empty and key not in given]
    if missing:
        raise ValueError(f"{kind} {name!r} needs: {', '.join(missing)}")


def _import(kind, name):
    """The class "module.Class"."""
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
