"""The table of predominant instruments, as IRMAS' literature prints it.

Micro-F1 has a bootstrap interval over recordings, since excerpts of one recording are alike.
"""

import numpy as np

from ..manifest import PRESENT
from . import bootstrap
from .results import Method, Table
from .tables import NONE, percent

COLUMNS = {  # the value of each heading
    "micro-F1 %": "micro_f1",
    "macro-F1 %": "macro_f1",
    "LRAP %": "lrap",
    "top-1 %": "top1",
    "top-1, merged %": "top1_merged",
}
CORPUS = "IRMAS"  # in publications
GENUINE_CLIPS = 2_874  # of its test split


def lines(table: Table) -> list[dict[str, str]]:
    """Fill the table; empty if no run was scored on predominant instruments."""
    methods = scored(table)
    if not methods:
        return []
    filled = []
    for name, values in methods[0]["predominant"]["baselines"].items():
        filled.append(_line(name, [values]))
    for method in methods:
        values = [run["predominant"] for run in method.runs]
        line = _line(method.label, values)
        low, high = interval(method)
        line["micro-F1 interval"] = f"[{100 * low:.1f}, {100 * high:.1f}]"
        thresholds = sorted({f"{value['threshold']:.2f}" for value in values})
        line["threshold"] = ", ".join(thresholds)
        line["oracle micro-F1 %"] = percent([value["oracle"]["micro_f1"] for value in values])
        filled.append(line)
    if table["clips"] == GENUINE_CLIPS:
        for entry in table.entries.values():
            published = entry.published
            if published and published.corpus == CORPUS:
                filled.append(_line(entry.published_label, [published.fractions(COLUMNS.values())]))
    return filled


def scored(table: Table) -> list[Method]:
    """List the methods whose runs were scored on predominant instruments."""
    return [m for m in table.methods if all("predominant" in run.results for run in m.runs)]


def best(table: Table) -> Method:
    """Return the one of `scored` with the best ranking (LRAP)."""
    return max(scored(table), key=lambda method: method.mean("predominant.lrap"))


def explanation() -> str:
    """Explain the columns of `lines`."""
    return (
        "Predominant instruments: precision and recall of 'present' over all cells (micro-F1), "
        "the mean of the F1 of each instrument (macro-F1), label ranking average precision (LRAP), "
        "and the share of excerpts whose most probable instrument is among their labels (top-1; "
        "merged: some instruments count as one). Threshold: chosen on mixtures of validation "
        f"excerpts. Interval: {bootstrap.LEVEL} % bootstrap over recordings. Oracle: with the "
        "threshold that is best on these very labels. The first lines do not depend on the "
        "excerpt; they know how frequent each label is in the test split."
    )


def interval(method: Method) -> tuple[float, float]:
    """Compute the bootstrap interval of micro-F1, the mean over a method's runs."""
    values = []
    for run in method.runs:
        arrays = run.arrays("predictions.npz")
        labels = arrays["targets"] >= PRESENT
        predicted = arrays["scores"] >= run["predominant"]["threshold"]
        counts = np.stack([labels & predicted, labels, predicted]).sum(axis=2)  # (3, N)
        _, group = np.unique(arrays["groups"], return_inverse=True)
        per_group = np.stack([np.bincount(group, weights=row) for row in counts])  # (3, G)
        rng = np.random.default_rng(0)
        size = per_group.shape[1]
        sampled = per_group[:, rng.integers(0, size, (bootstrap.RESAMPLES, size))].sum(axis=2)
        values.append(2 * sampled[0] / (sampled[1] + sampled[2]))
    low, high = bootstrap.interval(np.mean(values, axis=0))
    return float(low), float(high)


def _line(name, values):
    line = {"method": name}
    for heading, key in COLUMNS.items():
        line[heading] = percent([value.get(key) for value in values])
    return line | {"micro-F1 interval": NONE, "threshold": NONE, "oracle micro-F1 %": NONE}
