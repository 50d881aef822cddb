"""Metrics equal sklearn's over observed cells, and reproduce OpenMIC's constant baselines."""

import math

import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    classification_report,
    f1_score,
    label_ranking_average_precision_score,
    roc_auc_score,
)

from ast_repr import metrics

# Observed test labels of OpenMIC-2018, (present, absent), as in the per-instrument reports of
# cosmir/openmic-2018, examples/modeling-baseline.ipynb.
OPENMIC = {
    "accordion": (115, 423),
    "banjo": (140, 338),
    "bass": (134, 329),
    "cello": (226, 259),
    "clarinet": (137, 503),
    "cymbals": (297, 139),
    "drums": (278, 146),
    "flute": (175, 387),
    "guitar": (286, 150),
    "mallet_percussion": (211, 267),
    "mandolin": (193, 434),
    "organ": (121, 310),
    "piano": (285, 130),
    "saxophone": (305, 324),
    "synthesizer": (268, 112),
    "trombone": (228, 492),
    "trumpet": (318, 467),
    "ukulele": (182, 408),
    "violin": (394, 237),
    "voice": (224, 150),
}
NOTHING = dict.fromkeys(metrics.PER_INSTRUMENT)
JUNK = (0.0, 1.0, math.nan, 1e9, -1.0, math.inf)


def case(seed=0, shape=(300, 6), observed=0.3):
    rng = np.random.default_rng(seed)
    targets = rng.random(shape).round(2)
    scores = np.clip(0.6 * targets + 0.4 * rng.random(shape), 0, 1).round(2)  # ties, too
    return targets, rng.random(shape) < observed, scores


def flat(found):
    return [found[name] for name in metrics.SUMMARY] + [
        v for row in found["per_instrument"].values() for v in row.values()
    ]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("threshold", [0.5, 0.37])
def test_every_metric_equals_sklearns(seed, threshold):
    targets, mask, scores = case(seed)
    found = metrics.evaluate(targets, mask, scores, threshold)
    rows = []
    for k in range(6):
        truth, own = targets[mask[:, k], k] >= 0.5, scores[mask[:, k], k]
        report = classification_report(truth, own >= threshold, output_dict=True, zero_division=0)
        rows.append(
            {
                "macro_f1": report["macro avg"]["f1-score"],
                "weighted_f1": report["weighted avg"]["f1-score"],
                "positive_f1": report["True"]["f1-score"],
                "absent_f1": report["False"]["f1-score"],
                "ap": average_precision_score(truth, own),
                "auroc": roc_auc_score(truth, own),
                "present": truth.sum(),
                "absent": (~truth).sum(),
            }
        )
        assert found["per_instrument"][str(k)] == pytest.approx(rows[k], abs=1e-12)
    for name, column in {
        "macro_f1": "macro_f1",
        "positive_f1": "positive_f1",
        "weighted_f1": "weighted_f1",
        "map": "ap",
        "auroc": "auroc",
    }.items():
        assert found[name] == pytest.approx(np.mean([row[column] for row in rows]), abs=1e-12)


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize("where", ["targets", "scores"])
def test_unobserved_cells_change_nothing(where, junk):
    targets, mask, scores = case()
    before = flat(metrics.evaluate(targets, mask, scores))
    if where == "targets":
        targets = np.where(mask, targets, junk)
    else:
        scores = np.where(mask, scores, junk)
    assert flat(metrics.evaluate(targets, mask, scores)) == before


def test_inputs_are_not_modified():
    given = case()
    metrics.evaluate(*given)
    metrics.constant_baselines(*given[:2])
    assert all(np.array_equal(a, b) for a, b in zip(given, case(), strict=True))


def openmic():
    """Targets and mask with OpenMIC's counts."""
    targets, mask = np.zeros((800, 20)), np.zeros((800, 20), bool)
    for k, (present, absent) in enumerate(OPENMIC.values()):
        targets[:present, k], mask[: present + absent, k] = 1.0, True
    return targets, mask


def test_the_floors_of_openmic_are_those_known():
    targets, mask = openmic()
    found = metrics.constant_baselines(targets, mask, classes=list(OPENMIC))
    absent, present = found["always_absent"], found["always_present"]
    assert round(absent["macro_f1"], 3) == 0.348
    assert round(present["macro_f1"], 3) == 0.299
    assert round(present["positive_f1"], 3) == 0.599
    assert absent["positive_f1"] == 0
    assert absent["auroc"] == present["auroc"] == 0.5
    counts = {
        name: (row["present"], row["absent"]) for name, row in absent["per_instrument"].items()
    }
    assert counts == OPENMIC


def test_the_floors_follow_from_the_counts():
    found = metrics.constant_baselines(*openmic())
    half = [
        2 * a / (2 * a + p) / 2 for p, a in OPENMIC.values()
    ]  # all absent found, all present missed
    assert found["always_absent"]["macro_f1"] == pytest.approx(np.mean(half), abs=1e-12)
    half = [2 * p / (2 * p + a) / 2 for p, a in OPENMIC.values()]
    assert found["always_present"]["macro_f1"] == pytest.approx(np.mean(half), abs=1e-12)


def one(truth, scores):
    """`evaluate` of one instrument, all of it observed."""
    truth = np.asarray(truth, float)[:, None]
    return metrics.evaluate(truth, np.ones(truth.shape, bool), np.asarray(scores, float)[:, None])[
        "per_instrument"
    ]["0"]


@pytest.mark.parametrize(
    ("truth", "scores", "expected"),
    [
        (
            [1, 1, 0, 0],
            [0.9, 0.1, 0.9, 0.1],
            {"positive_f1": 0.5, "absent_f1": 0.5, "macro_f1": 0.5, "ap": 0.5, "auroc": 0.5},
        ),
        (
            [1, 0, 0, 0],
            [1, 1, 0, 0],
            {"positive_f1": 2 / 3, "absent_f1": 0.8, "weighted_f1": (2 / 3 + 3 * 0.8) / 4},
        ),
        (
            [0.5, 0.49],
            [0.5, 0.49],
            {"positive_f1": 1, "absent_f1": 1, "present": 1, "absent": 1},
        ),  # 0.5 is present
        ([0], [0], NOTHING | {"present": 0, "absent": 1}),  # "always absent" is no 100 %
        ([0, 0], [1, 0], NOTHING | {"present": 0, "absent": 2}),
        ([1, 1], [1, 1], NOTHING | {"present": 2, "absent": 0}),
        ([], [], NOTHING | {"present": 0, "absent": 0}),
    ],
)
def test_small_cases_by_hand(truth, scores, expected):
    found = one(truth, scores)
    for name, value in expected.items():
        assert found[name] == (None if value is None else pytest.approx(value, abs=1e-12)), name


def test_instruments_without_a_value_are_left_out_of_the_mean():
    targets = np.array([[1.0, 0.0, 0.3], [0.0, 0.0, 0.9]])
    mask = np.array([[True, True, False], [True, True, False]])
    found = metrics.evaluate(
        targets, mask, np.array([[0.9, 0.1, 0.5], [0.8, 0.2, 0.5]]), classes=["a", "b", "c"]
    )
    rows = found["per_instrument"]
    assert rows["c"]["macro_f1"] is None
    assert rows["b"]["ap"] is None
    assert found["macro_f1"] == rows["a"]["macro_f1"] == pytest.approx(1 / 3, abs=1e-12)
    assert found["map"] == rows["a"]["ap"] == 1.0
    assert found["auroc"] == 1.0


@pytest.mark.parametrize("side", [0.0, 1.0])
def test_which_instruments_count_depends_on_labels_alone(side):
    """With a one-sided instrument added, every metric of every prediction stays what it was."""
    targets, mask, scores = case()
    targets[:, 0] = side
    for threshold in (0.0, 0.5, 1.0):
        found = metrics.evaluate(targets, mask, scores, threshold)
        without = metrics.evaluate(targets[:, 1:], mask[:, 1:], scores[:, 1:], threshold)
        assert [found[name] for name in metrics.SUMMARY] == [
            without[name] for name in metrics.SUMMARY
        ]


def test_nothing_observed_has_no_value():
    found = metrics.evaluate(
        np.full((3, 2), np.nan), np.zeros((3, 2), bool), np.full((3, 2), np.nan)
    )
    assert all(found[name] is None for name in metrics.SUMMARY)


def test_the_threshold_itself_predicts_present():
    assert one([1, 0], [0.5, np.nextafter(0.5, 0)])["macro_f1"] == 1.0


def test_arrays_of_different_shapes_are_refused():
    targets, mask, scores = case()
    with pytest.raises(ValueError, match=r"targets \(299, 6\), mask \(300, 6\)"):
        metrics.evaluate(targets[:-1], mask, scores)
    with pytest.raises(ValueError, match=r"scores \(300, 5\)"):
        metrics.evaluate(targets, mask, scores[:, :5])
    with pytest.raises(ValueError, match=r"\(N, K\)"):
        metrics.evaluate(targets[:, 0], mask[:, 0], scores[:, 0])


@pytest.mark.parametrize("kind", [float, int])
def test_a_mask_that_is_not_bool_is_refused(kind):
    targets, mask, scores = case()
    with pytest.raises(ValueError, match="mask .*bool"):
        metrics.evaluate(targets, mask.astype(kind), scores)


@pytest.mark.parametrize("value", [np.nan, 1.5, -4.0])
def test_observed_values_outside_0_to_1_are_refused(value):
    """NaN, and logits by mistake."""
    targets, mask, scores = case()
    with pytest.raises(ValueError, match="observed target"):
        metrics.evaluate(np.where(mask, value, targets), mask, scores)
    with pytest.raises(ValueError, match="observed score"):
        metrics.evaluate(targets, mask, np.where(mask, value, scores))


# IRMAS: how often each label occurs in the test excerpts, and excerpts by their number of labels.
IRMAS_LABELS = {
    "voice": 1044,
    "piano": 995,
    "electric_guitar": 942,
    "acoustic_guitar": 535,
    "organ": 361,
    "saxophone": 326,
    "violin": 211,
    "trumpet": 167,
    "flute": 163,
    "cello": 111,
    "clarinet": 62,
}
IRMAS_SIZES = {1: 1236, 2: 1278, 3: 318, 4: 39, 5: 3}
GUITARS = ("acoustic_guitar", "electric_guitar")


@pytest.fixture(scope="module")
def irmas_labels():
    """Labels (2874, 11) with IRMAS' counts; which labels occur together is made up."""
    left = list(IRMAS_LABELS.values())
    labels = np.zeros((2874, 11), bool)
    row = 0
    for size, count in sorted(IRMAS_SIZES.items(), reverse=True):
        for _ in range(count):
            chosen = np.argsort(np.negative(left), kind="stable")[:size]
            labels[row, chosen] = True
            for k in chosen:
                left[k] -= 1
            row += 1
    assert left == [0] * 11
    return labels


def test_the_floors_of_irmas_follow_from_its_label_counts(irmas_labels):
    classes = list(IRMAS_LABELS)
    baselines = metrics.predominant_baselines(irmas_labels, classes, GUITARS)
    voice = baselines["always voice"]
    assert voice["top1"] == pytest.approx(0.363, abs=5e-4)
    assert voice["micro_f1"] == pytest.approx(0.268, abs=5e-4)
    assert voice["macro_f1"] == pytest.approx(0.048, abs=1e-3)
    three = baselines["always voice + piano + electric_guitar"]
    assert three["micro_f1"] == pytest.approx(0.440, abs=5e-4)
    assert three["macro_f1"] == pytest.approx(0.140, abs=5e-4)
    everything = baselines["always all instruments"]
    assert everything["micro_f1"] == pytest.approx(0.269, abs=5e-4)
    assert everything["macro_f1"] == pytest.approx(0.250, abs=5e-4)
    assert baselines["random ranking"]["top1"] == pytest.approx(0.156, abs=5e-4)
    guitar = baselines["always acoustic_guitar + electric_guitar"]
    either = irmas_labels[:, [classes.index(name) for name in GUITARS]].any(axis=1)
    assert guitar["top1_merged"] == pytest.approx(either.mean())


def test_the_expected_ranking_precision_of_random_rankings():
    rng = np.random.default_rng(0)
    labels = np.repeat([[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0]], 2_000, axis=0) > 0
    expected = metrics.predominant_baselines(labels, list("abcde"))["random ranking"]["lrap"]
    measured = label_ranking_average_precision_score(labels, rng.random(labels.shape))
    assert expected == pytest.approx(measured, abs=0.01)


def test_predominant_metrics_equal_their_definitions_and_sklearns():
    rng = np.random.default_rng(1)
    classes = ["voice", *GUITARS, "organ"]
    labels = rng.random((300, 4)) < 0.3
    labels[np.arange(300), rng.integers(4, size=300)] = True
    scores = rng.random((300, 4)) + 0.3 * labels
    values = metrics.evaluate_predominant(labels, scores, 0.7, classes, GUITARS)
    assert tuple(values) == metrics.PREDOMINANT
    predicted = scores >= 0.7
    true_positive = (labels & predicted).sum(axis=0)
    precision = true_positive / predicted.sum(axis=0)
    recall = true_positive / labels.sum(axis=0)
    f1 = 2 * precision * recall / (precision + recall)
    micro_precision = true_positive.sum() / predicted.sum()
    micro_recall = true_positive.sum() / labels.sum()
    expected = {
        "micro_precision": micro_precision,
        "micro_recall": micro_recall,
        "micro_f1": 2 * micro_precision * micro_recall / (micro_precision + micro_recall),
        "macro_precision": precision.mean(),
        "macro_recall": recall.mean(),
        "macro_f1": f1.mean(),
        "lrap": label_ranking_average_precision_score(labels, scores),
        "top1": np.mean([labels[i, scores[i].argmax()] for i in range(300)]),
    }
    for name, value in expected.items():
        assert values[name] == pytest.approx(value), name
    top = np.where(scores.argmax(axis=1) == 2, 1, scores.argmax(axis=1))
    either = labels.copy()
    either[:, 1] |= labels[:, 2]
    assert values["top1_merged"] == pytest.approx(either[np.arange(300), top].mean())
    unmerged = metrics.evaluate_predominant(labels, scores, 0.7, classes)
    assert unmerged["top1_merged"] == unmerged["top1"]


def test_the_middle_threshold_is_between_the_ends_of_a_flat_optimum():
    labels = np.array([[True, False]] * 100)
    scores = np.where(labels, 0.8, 0.2)  # all is right from 0.21 to 0.80
    assert metrics.best_threshold(labels, scores) == 0.21
    assert metrics.middle_threshold(labels, scores) == 0.505
    scores[0, 0] = 0.3  # a single error from 0.31 on, which is within the tolerance
    assert metrics.best_threshold(labels, scores) == 0.21
    assert metrics.middle_threshold(labels, scores) == 0.505


def test_the_best_threshold_is_the_one_of_an_exhaustive_search():
    rng = np.random.default_rng(2)
    labels = rng.random((200, 3)) < 0.3
    scores = np.clip(rng.normal(0.3 + 0.3 * labels, 0.15), 0, 1)
    best = metrics.best_threshold(labels, scores)
    by_threshold = {
        value: f1_score(labels, scores >= value, average="micro") for value in metrics.THRESHOLDS
    }
    assert by_threshold[best] == max(by_threshold.values())
    assert 0.35 < best < 0.6


def test_a_clip_without_a_predominant_instrument_is_refused():
    with pytest.raises(ValueError, match="without a label"):
        metrics.evaluate_predominant(np.zeros((1, 2)), np.zeros((1, 2)), 0.5, ["a", "b"])
