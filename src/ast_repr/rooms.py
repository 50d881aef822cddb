"""What every room shares: building one of its entries by name, with errors that list the choices.

A name with a dot, "module.Class", stands for a class outside of the package, in a module that Python finds (PYTHONPATH).
"""

import difflib
import importlib
import inspect


def unknown(kind, name, choices):
    """The one-line message for a name that is not among `choices`, with the nearest valid one first."""
    choices = sorted(map(str, choices))
    near = difflib.get_close_matches(str(name), choices, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown {kind} {name!r}: {hint}valid: {', '.join(choices) or 'none'}"


def build(kind, room, name, kwargs, offered=None):
    """Return `room[name](**kwargs)`.

    Args:
        kind: what the room holds, for messages ("reprogrammer").
        room: dict of names to constructors.
        name: the entry, or "module.Class".
        kwargs: its keywords.
        offered: keywords that it gets if it takes them.

    Raises:
        ValueError: the name, or a keyword, is not there; the message lists what is.
    """
    entry = _find(kind, room, name)
    parameters = inspect.signature(entry).parameters
    kwargs = kwargs | {key: value for key, value in (offered or {}).items() if key in parameters}
    _check_keywords(kind, name, parameters, kwargs)
    return entry(**kwargs)


def check(kind, room, name, options, offered=()):
    """Refuse what `build` would refuse, without building anything.

    Args:
        options: keywords that a user has chosen.
        offered: names of those that the entry will get besides, if it takes them.

    Raises:
        ValueError: as `build`.
    """
    parameters = inspect.signature(_find(kind, room, name)).parameters
    _check_keywords(kind, name, parameters, {*options, *(set(offered) & set(parameters))})


def _find(kind, room, name):
    entry = _outside(kind, name) if "." in name else room.get(name)
    if entry is None:
        raise ValueError(unknown(kind, name, room))
    return entry


def _check_keywords(kind, name, parameters, keywords):
    for key in keywords:
        if key not in parameters:
            raise ValueError(unknown(f"option of {kind} {name!r}", key, parameters))
    missing = [key for key, p in parameters.items() if p.default is p.empty and key not in keywords]
    if missing:
        raise ValueError(f"{kind} {name!r} needs: {', '.join(missing)}")


def _outside(kind, name):
    """The class "module.Class" of a module that is not ours."""
    module, _, own = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), own, None)
    except ImportError as error:
        raise ValueError(
            f"{kind} {name!r}: {error}; put the folder of {module.partition('.')[0]}.py on PYTHONPATH"
        ) from error
    if not inspect.isclass(found):
        raise ValueError(f"{kind} {name!r}: found no class {own} in {module}")
    return found
