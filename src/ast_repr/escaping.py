"""Escape untrusted text, such as names of files and classes, for the medium that shows it.

The medium then shows exactly this text: no terminal obeys it, no spreadsheet computes it, and it
opens no markup. In JSON, which programs read, names stay as they are.
"""

import json
import re
from html import escape
from typing import Any

FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")  # a spreadsheet's formula begins so
# Underscores within words are not markup.
MARKUP = re.compile(r"[\\`*\[\]<>|~&$]|(?<![^\W_])_|_(?![^\W_])")


def terminal(text: str) -> str:
    r"""Return one line of printable characters; others, such as text direction marks, are escaped.

    >>> print(terminal("Björk\n\x1b[2J\u202e.wav"))
    Björk\n\x1b[2J\u202e.wav
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def html(text: str) -> str:
    """Escape text or an attribute's value of a web page.

    >>> html("<b>'")
    '&lt;b&gt;&#x27;'
    """
    return escape(terminal(text))


def markdown(text: str) -> str:
    r"""Escape text within a line or a table's cell.

    >>> print(markdown("<b>|mallet_percussion| _"))
    \<b\>\|mallet_percussion\| \_
    """
    return MARKUP.sub(r"\\\g<0>", terminal(text))


def markdown_code(text: str) -> str:
    r"""Return a code span for a table's cell, in which only `|` has to be escaped.

    >>> print(markdown_code("a|b"), markdown_code("a`b"))
    `a\|b` `` a`b ``
    """
    text = terminal(text).replace("|", r"\|")
    if "`" not in text:
        return f"`{text}`"
    longest = max(map(len, re.findall("`+", text)))
    fence = "`" * (longest + 1)
    return f"{fence} {text} {fence}"


def csv_cell(value: Any) -> Any:
    """Return a cell's value; text that a spreadsheet would compute gets an apostrophe first.

    >>> csv_cell("=1+1"), csv_cell("bass"), csv_cell(-0.5)
    ("'=1+1", 'bass', -0.5)
    """
    if not isinstance(value, str):
        return value
    value = terminal(value)
    return f"'{value}" if value.startswith(FORMULA) else value


def json_line(value: Any) -> str:
    r"""Return one line of JSON in printable characters; others become JSON's own escapes.

    >>> print(json_line({"ü": "\x7f\u202e"}))
    {"ü": "\u007f\u202e"}
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def figure(text: str) -> str:
    """Escape a label of a matplotlib figure, so that `$` begins no formula."""
    return terminal(text).replace("$", r"\$")


def plain(name: str) -> str:
    """Return a class's name in plain words; not escaped.

    >>> plain("mallet_percussion ")
    'mallet percussion'
    """
    return name.strip().replace("_", " ")
