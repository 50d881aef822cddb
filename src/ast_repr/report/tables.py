"""Tables of results: accuracy, complexity, and a CSV per instrument.

Numbers are percentages, mean ± standard deviation (n - 1) over seeds. Accuracy is measured on the
observed labels and, if it is known, on the truth; macro-F1 is compared with that of a reference
method. Published results have a column if they were obtained on the table's corpus.
"""

import csv
import io
from collections.abc import Iterable, Sequence

from .. import escaping
from .bootstrap import LEVEL, RESAMPLES, SIGNIFICANCE
from .compare import Comparison, Difference, compare, kendall_tau, sentence
from .partial_labels import METRICS, Estimate, Measurement, Part
from .results import ResultsError, Table, mean_std
from .schema import BASELINES, OBSERVED, PER_INSTRUMENT, TRUTH

Line = dict[str, str]  # of a table: its cells by heading
TEXT_COLUMNS = ("method", "norm", "labels", "question", "instrument", "source class")
OBSERVED_COLUMNS = {  # the metric of each heading
    "macro-F1 %": "macro_f1",
    "pos. F1 %": "positive_f1",
    "mAP %": "map",
    "AUROC %": "auroc",
}
TRUTH_COLUMNS = {"truth macro-F1 %": "macro_f1", "truth mAP %": "map", "truth AUROC %": "auroc"}
COST_COLUMNS = ("MAC per clip", "s per epoch")
ERROR = "sampling error"
DIFFERENCE = "difference, points"
PUBLISHED = "published macro-F1 %"
PUBLISHED_MAP = "published mAP %"
PUBLISHED_PARAMETERS = "published trained parameters"
TRUTH_AP = "truth AP %"
TEACHER_MACS = "teacher's MAC per clip"
OPTIONAL = (
    *TRUTH_COLUMNS,
    TRUTH_AP,
    ERROR,
    DIFFERENCE,
    PUBLISHED,
    PUBLISHED_MAP,
    PUBLISHED_PARAMETERS,
    TEACHER_MACS,
)
NONE = "-"
AT_CAP = "†"


def accuracy(table: Table, comparison: Comparison, footnotes: Sequence[str] = ()) -> list[Line]:
    """Fill the accuracy table: the constant baselines, then the methods.

    Args:
        footnotes: see `footnotes`; without them, no published results are shown.
    """
    lines = []
    for baseline, name in BASELINES.items():
        line = {"method": name, "norm": NONE, "trained parameters": "0", "epoch": NONE}
        observed = table.baseline_metrics(baseline, OBSERVED)
        line |= _scores(observed, table.baseline_metrics(baseline, TRUTH))
        others = dict.fromkeys((ERROR, DIFFERENCE, PUBLISHED, PUBLISHED_MAP), NONE)
        lines.append(line | others)
    for method in table.methods:
        line = {
            "method": f"{method.label} {AT_CAP}" if method.ended_at_cap else method.label,
            "norm": method["norm"],
            "trained parameters": f"{method['trainable_parameters']:,}",
            "epoch": f"{round(method.mean('selection.epoch'), 1):g}",
        }
        line |= _scores(method.metrics(OBSERVED), method.metrics(TRUTH), count=True)
        error = comparison.errors.get(method.conf)
        line[ERROR] = NONE if error is None else f"{100 * error:.1f}"
        line[DIFFERENCE] = points(comparison.differences.get(method.conf))
        line[PUBLISHED] = NONE
        line[PUBLISHED_MAP] = NONE
        published = table.published(method)
        if published and footnotes:
            mark = _mark(footnotes, published.footnote)
            scores = {PUBLISHED: published.macro_f1, PUBLISHED_MAP: published.map}
            for heading, values in scores.items():
                if values is not None:
                    average, _ = mean_std(values)
                    line[heading] = f"{average:.1f} ({len(values)}) {mark}"
        lines.append(line)
    return _without_empty_columns(lines)


def complexity(table: Table, footnotes: Sequence[str] = ()) -> list[Line]:
    """Fill the complexity table: parameters, multiply-accumulate operations (MAC), time."""
    lines = []
    for method in table.methods:
        seconds = method.mean("seconds_per_epoch")
        line = {
            "method": method.label,
            "trained parameters": f"{method['trainable_parameters']:,}",
            "total parameters": f"{round(method.mean('total_parameters')):,}",
            "MAC per clip": _magnitude(method["macs"]),
            TEACHER_MACS: _magnitude(method.runs[0].results.get("teacher_macs")),
            "s per epoch": f"{seconds:.1f}" if seconds >= 1 else f"{seconds:.2g}",
            "epochs": f"{round(method.mean('epochs'), 1):g}",
            "training time": _duration(method.mean("train_seconds")),
            PUBLISHED_PARAMETERS: NONE,
        }
        published = table.published(method)
        if published and footnotes and published.trainable_parameters is not None:
            mark = _mark(footnotes, published.footnote)
            line[PUBLISHED_PARAMETERS] = f"{published.trainable_parameters:.3f} M {mark}"
        lines.append(line)
    return _without_empty_columns(lines)


def best_sources(table: Table) -> list[Line]:
    """Fill the table of the best source class per instrument; empty if no method has chosen any."""
    lines = []
    for method in table.methods:
        for instrument, source in method.runs[0].results.get("best_sources", {}).items():
            line = {"instrument": instrument, "source class": source}
            for heading, labels in (("AP %", OBSERVED), (TRUTH_AP, TRUTH)):
                scores = method.metrics(labels)
                line[heading] = percent(
                    score["per_instrument"][instrument]["ap"] for score in scores
                )
            lines.append(line)
    return _without_empty_columns(lines)


def with_cost(lines: list[Line], table: Table) -> list[Line]:
    """Add the cost of a forward pass and of an epoch to the lines of `accuracy`."""
    costs = [*({} for _ in BASELINES), *complexity(table)]
    joined = []
    for line, cost in zip(lines, costs, strict=True):
        joined.append(line | {heading: cost.get(heading, NONE) for heading in COST_COLUMNS})
    return joined


def footnotes(table: Table) -> list[str]:
    """List the sources of the published results beside a table's methods."""
    published = [table.published(method) for method in table.methods]
    return list(dict.fromkeys(results.footnote for results in published if results))


def explanations(table: Table) -> list[str]:
    """Explain the data, the methods, the baselines and the columns of a table, in paragraphs."""
    paragraphs = [
        f"Split {table['split']!r}: {table['clips']:,} clips, {len(table['classes'])} classes, "
        f"scored on {table['observed']:,} observed labels.{_without_score(table, OBSERVED)}"
    ]
    if table.has_truth:
        paragraphs.append(
            "Columns of the truth are scored on every class of every clip, "
            f"{table['clips'] * len(table['classes']):,} cells; nothing is trained or chosen on "
            f"the truth.{_without_score(table, TRUTH)}"
        )
    described = {}
    for method in table.methods:
        if method.entry and method.entry.description:
            described[method.name] = method.entry.description
    if described:
        paragraphs.append(f"Methods: {_list(described)}.")
    selections = sorted({_selection(run["selection"]) for run in table.runs})
    columns = {
        "norm": "statistics that normalise the input (backbone: those of the pre-training data; "
        "corpus: those of the training clips; none: not normalised)",
        "macro-F1": "per class the mean of the F1 of 'present' and the F1 of 'absent' at "
        f"threshold {table['threshold']:g}, then the mean over classes",
        "pos. F1": "F1 of 'present'",
        "mAP": "mean average precision",
        "AUROC": "area under the ROC curve",
        "epoch": f"the evaluated one, {'; '.join(selections)}",
    }
    return [
        *paragraphs,
        "Baselines: 'always absent' and 'always present' are constant predictions, the same for "
        "every clip and class.",
        f"Columns: {_list(columns)}. Values are means ± standard deviations over seeds (number of "
        "seeds).",
    ]


def comparison_notes(table: Table, comparison: Comparison, reference: str | None) -> list[str]:
    """Explain sampling errors and differences, and name the methods without them."""
    paragraphs = []
    sampled = "clips"
    if all(method.samples_groups for method in table.methods):
        sampled = "groups of clips"
    if comparison.errors:
        paragraphs.append(
            f"Sampling error: bootstrap standard error, over test {sampled}, of macro-F1 on the "
            f"{comparison.labels}, in points; ± is the standard deviation over seeds."
        )
    if comparison.differences:
        part = ""
        if any(method.share_of_data != (1, 1) for method in table.methods):
            part = ", trained on the same part of the data"
        paragraphs.append(
            f"Difference: macro-F1 on the {comparison.labels} minus that of {reference}{part}, "
            f"paired by seed and clip, with a {LEVEL} % bootstrap interval over the test {sampled} "
            f"({RESAMPLES:,} resamples). *: it differs from zero after Holm's correction for the "
            f"number of differences, {len(comparison.differences)} (chance of a false mark in the "
            f"table: at most {100 * SIGNIFICANCE:g} %)."
        )
    observed = []
    truth = []
    for method in table.methods:
        on_labels, _ = mean_std(method.scores(OBSERVED, "macro_f1"))
        on_truth, _ = mean_std(method.scores(TRUTH, "macro_f1"))
        if on_labels is not None and on_truth is not None:
            observed.append(on_labels)
            truth.append(on_truth)
    if len(truth) > 2:
        paragraphs.append(
            f"Macro-F1 on the observed labels and on the truth rank the {len(truth)} methods with "
            f"Kendall's tau {kendall_tau(observed, truth):.2f} (1: the same order, -1: reversed)."
        )
    if any(method.ended_at_cap for method in table.methods):
        paragraphs.append(
            f"{AT_CAP}: training ended at its cap of epochs before validation had stopped "
            "improving; more epochs might raise the scores."
        )
    return paragraphs + _controls(table, comparison.labels) + comparison.problems


def partial_labels_notes(table: Table, measurement: Measurement) -> list[str]:
    """Explain the tables of `partial_labels`, and name the methods that are left out."""
    if not measurement.parts:
        return measurement.problems
    draws = max(part.draws for part in measurement.parts)
    return [
        f"The {measurement.methods} methods are scored again on a part of the test cells (clip and "
        "instrument): drawn from all cells with their true labels; from the observed cells with "
        "their true labels; or from the observed cells with their observed labels, of which "
        f"{100 * measurement.correct:.1f} % are true. Values are means over {draws} draws [95 % of "
        "the draws]; the last part of each kind is not drawn.",
        "Tau: Kendall's, between the order of the methods on the part and their order on the truth "
        "of every cell, by the same metric (1: the same order, 0: none in common, -1: reversed). "
        "Bias: the metric on the part minus that on the truth of every cell, the mean over "
        "methods, in points.",
        *measurement.problems,
    ]


def partial_labels(parts: Iterable[Part]) -> list[list[Line]]:
    """Fill two tables of the `partial_labels.measure` of methods: tau, and bias in points."""
    taus = []
    biases = []
    for part in parts:
        line = {"labels": part.source, "share of cells": f"{100 * part.share:.3g} %"}
        tau = dict(line)
        bias = dict(line)
        for metric, name in METRICS.items():
            tau[f"tau {name}"] = _estimate(part.tau[metric], ".2f", part.draws)
            bias[f"bias {name}"] = _estimate(part.bias[metric], "+.1f", part.draws, scale=100)
        taus.append(tau)
        biases.append(bias)
    return [taus, biases]


def _estimate(estimate: Estimate, form: str, draws: int, scale: float = 1) -> str:
    """Format the mean over draws, with the interval that holds most of them."""
    value, low, high = [
        format(scale * number, form) for number in (estimate.value, estimate.low, estimate.high)
    ]
    return f"{value} [{low}, {high}]" if draws > 1 else value


def _controls(table, labels):
    """A sentence about each method whose control is in the table, too."""
    by_conf = {method.conf: method for method in table.methods}
    sentences = []
    for method in table.methods:
        control = by_conf.get(method.control)
        if control is None:
            continue
        try:
            difference = sentence(compare(control, method, labels))
        except ResultsError as error:
            difference = f"no interval, {error}"
        sentences.append(f"{method.name} against its control, {control.name}: {difference}.")
    return sentences


def per_instrument(tables: Iterable[Table]) -> str:
    """Write CSV of every instrument and method: fractions 0..1, empty if there is none.

    Columns that begin with "truth" are on the truth, the others on the observed labels.
    """
    rows = []
    for table in tables:
        for baseline, name in BASELINES.items():
            observed = table.baseline_metrics(baseline, OBSERVED)
            truth = table.baseline_metrics(baseline, TRUTH)
            rows += _rows_of_csv(table, baseline, name, None, observed, truth)
        for method in table.methods:
            observed = method.metrics(OBSERVED)
            truth = method.metrics(TRUTH)
            seeds = len(method.runs)
            rows += _rows_of_csv(table, method.conf, method.name, seeds, observed, truth)
    file = io.StringIO()
    writer = csv.DictWriter(file, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _rows_of_csv(table, conf, method, seeds, observed, truth):
    for instrument in table["classes"]:
        row = {
            "corpus": table.corpus,
            "protocol": table.protocol,
            "backbone": table.backbone,
            "conf": conf,
            "method": method,
            "instrument": instrument,
            "seeds": seeds,
        }
        for prefix, scores in (("", observed), ("truth_", truth)):
            values = [score["per_instrument"][instrument] for score in scores]
            for count in ("present", "absent"):
                row[f"{prefix}{count}"] = values[0][count] if values else None
            for metric in PER_INSTRUMENT:
                average, deviation = mean_std(value[metric] for value in values)
                row[f"{prefix}{metric}_mean"] = average
                row[f"{prefix}{metric}_std"] = deviation
        yield {heading: escaping.csv_cell(value) for heading, value in row.items()}


def _scores(observed, truth, count=False):
    """The cells of accuracy, from the metrics of some runs; `count` adds how many they are."""
    cells = {}
    for heading, key in OBSERVED_COLUMNS.items():
        cells[heading] = percent([metrics[key] for metrics in observed])
    for heading, key in TRUTH_COLUMNS.items():
        cells[heading] = percent([metrics[key] for metrics in truth])
    if count and cells["macro-F1 %"] != NONE:
        cells["macro-F1 %"] += f" ({len(observed)})"
    return cells


def _without_empty_columns(lines):
    """Remove the optional columns in which there is nothing."""
    empty = [key for key in OPTIONAL if all(line.get(key, NONE) == NONE for line in lines)]
    return [{key: cell for key, cell in line.items() if key not in empty} for line in lines]


def _list(items):
    return "; ".join(f"{name}: {explanation}" for name, explanation in items.items())


def _without_score(table, labels):
    """A sentence about the instruments that have labels of one kind only."""
    names = []
    for name, scores in table.scored_on(labels)["metrics"]["per_instrument"].items():
        if scores["macro_f1"] is None:
            names.append(f"{name} ({scores['present']} present, {scores['absent']} absent)")
    if not names:
        return ""
    return f" Left out of every mean, for lack of labels of both kinds: {'; '.join(names)}."


def _selection(selection):
    """How a run's epoch was chosen, in words."""
    metric = "{metric} ({mode}) on the split {split!r}".format(**selection)
    if selection.get("value", 0) is None:
        return f"the last, as there is no {metric}"
    return f"the best by {metric}"


def percent(values: Iterable[float | None]) -> str:
    """Format fractions in per cent: the mean and the deviation.

    >>> percent([0.7, 0.72]), percent([None])
    ('71.0 ± 1.4', '-')
    """
    average, deviation = mean_std(values)
    if average is None:
        return NONE
    text = f"{100 * average:.1f}"
    return text if deviation is None else f"{text} ± {100 * deviation:.1f}"


def points(difference: Difference | None) -> str:
    """Format a difference in points, with its interval and, if it is significant, a mark."""
    if difference is None:
        return NONE
    mark = " *" if difference.significant else ""
    return (
        f"{100 * difference.value:+.1f} [{100 * difference.low:+.1f}, "
        f"{100 * difference.high:+.1f}]{mark}"
    )


def _mark(footnotes, footnote):
    return f"[{footnotes.index(footnote) + 1}]"


def _duration(seconds):
    """Format seconds.

    >>> _duration(93.1), _duration(1000), _duration(9000)
    ('93 s', '17 min', '2.5 h')
    """
    if seconds < 600:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _magnitude(count):
    """Format a count with three digits.

    >>> _magnitude(2_311_000_000), _magnitude(55_336), _magnitude(None)
    ('2.31 G', '55.3 k', '-')
    """
    if count is None:
        return NONE
    power = min(4, (len(str(count)) - 1) // 3)
    return f"{count / 1000**power:.3g} {['', 'k', 'M', 'G', 'T'][power]}".strip()
