"""All figures of a table, by the name of their file."""

import re

import matplotlib

from . import difference, instruments, learning_curves, overview, study_figures, style

STUDY = {"bars": study_figures.bars, "labels": study_figures.labels}


def draw(table, studies=(), names=None):
    """Draw all that a table's files allow.

    Args:
        table: `results.Table`; its variants stand in the figures of studies alone.
        studies: list of `studies.Study`; see there which of them are shown.
        names: rows that the bars of instruments show; default see `instruments.chosen`.

    Returns:
        dict of a file's stem to its Figure: methods, accuracy_vs_parameters, heatmap and
        instruments; curves, if there was a validation split; an example for each row that has a
        reprogrammer and saved one; and study.<name> for each study. Empty if nothing could be
        scored, for want of labels of both kinds.
    """
    if table["metrics"]["macro_f1"] is None:
        return {}
    main, figures = table.main, {}
    with matplotlib.rc_context(style.STYLE):
        if main.rows:
            figures["methods"] = overview.boxes(main)
            figures["accuracy_vs_parameters"] = overview.accuracy_vs_parameters(main)
            figures["heatmap"] = instruments.heatmap(main)
            figures["instruments"] = instruments.bars(instruments.chosen(table, names))
        if learning_curves.learning(main):
            figures["curves"] = learning_curves.curves(main)
        for row in main.rows:
            saved = next((run for run in row.runs if run.has_example), None)
            if saved and row["reprogrammer"] != "none":
                figures[f"example.{row.conf}"] = learning_curves.example(row, saved)
        for study in studies:
            rows = study.table(table)
            if rows and study.figure:
                figures[f"study.{study.name}"] = STUDY[study.figure](study, rows)
    return {stem(table, name): figure for name, figure in figures.items()}


def draw_difference(table, found):
    """(stem, Figure) of what `compare.compare` found."""
    with matplotlib.rc_context(style.STYLE):
        return stem(table, f"compare.{found['a']}.{found['b']}"), difference.differences(
            table, found
        )


def stem(table, name):
    """A file name without its ending for what belongs to one table."""
    return re.sub(r"[^\w.+=-]+", "_", f"{table.stem}.{name}")
