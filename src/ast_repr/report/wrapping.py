"""Break names of methods into lines."""

import re
import textwrap


class _Wrapper(textwrap.TextWrapper):
    wordsep_simple_re = re.compile(r"(\s+)|(?=\+)")


def wrapped(text: str, width: int) -> str:
    r"""Break text into lines of at most `width` characters, at spaces and before the + of variants.

    >>> wrapped("AST-URP, on ast_unet+input.norm=corpus", 24)
    'AST-URP, on ast_unet\n+input.norm=corpus'
    """
    return _Wrapper(width, break_on_hyphens=False).fill(text)
