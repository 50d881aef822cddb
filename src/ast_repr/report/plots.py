"""Draw all figures of a table, by the name of their file."""

import re
from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure

from . import (
    confusion,
    difference,
    instruments,
    learning_curves,
    overview,
    predominant,
    study_figures,
    style,
)
from .results import Table
from .schema import TRUTH
from .studies import Study

STUDY = {
    "bars": study_figures.bars,
    "labels": study_figures.labels,
    "clips": study_figures.clips,
    "cost": study_figures.cost,
    "partial_labels": study_figures.partial,
}


def draw(
    table: Table, studies: Sequence[Study] = (), confs: Sequence[str] = ()
) -> dict[str, Figure]:
    """Draw all that a table's files allow; nothing if no metric is defined.

    Args:
        confs: for the bars of instruments; default see `instruments.chosen`.

    Returns:
        figures by the stem of their files.
    """
    if table["metrics"]["macro_f1"] is None:
        return {}
    main = table.main
    figures = {}
    with matplotlib.rc_context(style.STYLE):
        if main.methods:
            figures["methods"] = overview.boxes(main)
            figures["accuracy_vs_cost"] = overview.accuracy_vs_cost(main)
            figures["heatmap"] = instruments.heatmap(main)
            if predominant.scored(main):
                figures["confusion"] = confusion.draw(predominant.best(main))
            figures["instruments"] = instruments.bars(instruments.chosen(table, confs))
        if learning_curves.with_curves(main):
            figures["curves"] = learning_curves.curves(main)
        for method in main.methods:
            saved = [run for run in method.runs if run.has_example]
            if saved and method["reprogrammer"] != "none":
                figures[f"example.{method.conf}"] = learning_curves.example(method, saved[0])
        for study in studies:
            shown = study.table(table)
            if shown and study.figure in STUDY:
                figures[f"study.{study.name}"] = STUDY[study.figure](study, shown)
    return {stem(table, name): figure for name, figure in figures.items() if figure}


def draw_difference(table: Table, comparison: dict) -> tuple[str, Figure]:
    """Draw the result of `compare.compare`; (stem of the file, figure)."""
    ending = ".truth" if comparison["labels"] == TRUTH else ""
    name = f"compare.{comparison['a']}.{comparison['b']}{ending}"
    with matplotlib.rc_context(style.STYLE):
        return stem(table, name), difference.draw(table, comparison)


def stem(table: Table, name: str) -> str:
    """A file name, without its ending, for what belongs to one table."""
    return re.sub(r"[^\w.+=-]+", "_", f"{table.stem}.{name}")
