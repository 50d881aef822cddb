"""Text from outside, such as names of files, classes and confs, escaped for where it is shown.

Each function takes any text and gives back what that place shows as this very text: no terminal
obeys it, no spreadsheet computes it, and it opens no markup. Programs read JSON, in which names
stay exactly as they are.
"""

import json
import re
from html import escape

FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")  # how a spreadsheet's formula begins
# An underscore within a word is no markup.
MARKUP = re.compile(r"[\\`*\[\]<>|~&$]|(?<![^\W_])_|_(?![^\W_])")


def terminal(text: str) -> str:
    r"""One line of printable characters; others, such as those that turn text around, are escaped.

    >>> print(terminal("Björk\n\x1b[2J\u202e.wav"))
    Björk\n\x1b[2J\u202e.wav
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def html(text: str) -> str:
    """Text or an attribute's value of a web page.

    >>> html("<b>'")
    '&lt;b&gt;&#x27;'
    """
    return escape(terminal(text))


def markdown(text: str) -> str:
    r"""Text within a line or a table's cell.

    >>> print(markdown("<b>|mallet_percussion| _"))
    \<b\>\|mallet_percussion\| \_
    """
    return MARKUP.sub(r"\\\g<0>", terminal(text))


def markdown_code(text: str) -> str:
    r"""A code span in a table's cell, where only `|` has to be escaped.

    >>> print(markdown_code("a|b"), markdown_code("a`b"))
    `a\|b` `` a`b ``
    """
    text = terminal(text).replace("|", r"\|")
    if "`" not in text:
        return f"`{text}`"
    longest = max(map(len, re.findall("`+", text)))
    fence = "`" * (longest + 1)
    return f"{fence} {text} {fence}"


def csv_cell(value):
    """A cell's value; text that a spreadsheet would compute gets an apostrophe before it.

    >>> csv_cell("=1+1"), csv_cell("bass"), csv_cell(-0.5)
    ("'=1+1", 'bass', -0.5)
    """
    if not isinstance(value, str):
        return value
    value = terminal(value)
    return f"'{value}" if value.startswith(FORMULA) else value


def json_line(value) -> str:
    r"""JSON in one line of printable characters; what they stand for is unchanged.

    >>> print(json_line({"ü": "\x7f\u202e"}))
    {"ü": "\u007f\u202e"}
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def figure(text: str) -> str:
    """A label of a matplotlib figure, in which `$` begins no formula."""
    return terminal(text).replace("$", r"\$")


def plain(name: str) -> str:
    """A class's name as it is read aloud; not escaped.

    >>> plain("mallet_percussion ")
    'mallet percussion'
    """
    return name.strip().replace("_", " ")
