"""Metrics equal sklearn's over observed cells, and reproduce OpenMIC's constant baselines."""

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, classification_report, roc_auc_score

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
