"""Contrasts: pairs of methods whose difference answers a question, from conf/contrasts.yaml.

unet_raw:
  question: U-Net - AST-BS, both un-normalised
  a: ast_linear_raw
  b: ast_unet

The README has a table of them: a line per question, a column per corpus and backbone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import compare, conf_file
from .results import Table
from .schema import TRUTH
from .tables import Line


@dataclass(frozen=True)
class Contrast:
    """The difference b - a of two confs, and the question that it answers."""

    question: str
    a: str
    b: str


def read(path: Path) -> dict[str, Contrast]:
    """Read the contrasts, by name; raises as `conf_file.read`."""
    return conf_file.read(path, Contrast)


def lines(tables: Sequence[Table], contrasts: Mapping[str, Contrast]) -> list[Line]:
    """Compute the difference of macro-F1 on the truth for each contrast and table, in points.

    Tables of other protocols than clean, without a truth, or without any of the contrasts are left
    out; an empty cell tells that a table lacks a method.
    """
    shown = []
    for table in tables:
        pairs = [table.only([contrast.a, contrast.b]) for contrast in contrasts.values()]
        has_contrast = any(len(pair.methods) == 2 for pair in pairs)
        if table.protocol == "clean" and table.has_truth and has_contrast:
            shown.append((f"{table.corpus}, {table.backbone}", pairs))
    result = []
    for number, contrast in enumerate(contrasts.values()):
        line = {"question": contrast.question}
        for heading, pairs in shown:
            line[heading] = _cell(pairs[number])
        result.append(line)
    return result


def _cell(pair: Table) -> str:
    if len(pair.methods) < 2:
        return ""
    comparison = compare.compare(*pair.methods, TRUTH)
    overall = comparison["macro_f1"]
    return (
        f"{100 * overall['difference']:+.1f} "
        f"[{100 * overall['low']:+.1f}, {100 * overall['high']:+.1f}] "
        f"({len(comparison['seeds'])})"
    )
