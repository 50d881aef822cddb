"""What every room shares: building one of its entries by name, with errors that list the choices."""

import difflib
import inspect


def unknown(kind, name, choices):
    """The one-line message for a name that is not among `choices`, with the nearest valid one first."""
    choices = sorted(map(str, choices))
    near = difflib.get_close_matches(str(name), choices, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown {kind} {name!r}: {hint}valid: {', '.join(choices) or 'none'}"


def build(kind, room, name, kwargs):
    """Return `room[name](**kwargs)`.

    Args:
        kind: what the room holds, for messages ("reprogrammer").
        room: dict of names to constructors.
        name: the entry.
        kwargs: its keywords.

    Raises:
        ValueError: the name, or a keyword, is not there; the message lists what is.
    """
    if name not in room:
        raise ValueError(unknown(kind, name, room))
    parameters = inspect.signature(room[name]).parameters
    for key in kwargs:
        if key not in parameters:
            raise ValueError(unknown(f"option of {kind} {name!r}", key, parameters))
    missing = [key for key, p in parameters.items() if p.default is p.empty and key not in kwargs]
    if missing:
        raise ValueError(f"{kind} {name!r} needs: {', '.join(missing)}")
    return room[name](**kwargs)
