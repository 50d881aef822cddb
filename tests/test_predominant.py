"""Scoring of predominant instruments: mixtures, the chosen threshold, the table."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from report_runs import StoredRun

from ast_repr import audio, evaluation, features, metrics
from ast_repr.data import mixtures
from ast_repr.manifest import Clip
from ast_repr.report import confusion, predominant, published
from ast_repr.report.results import Method, Table
from ast_repr.settings import Score

CONF = Path(__file__).parents[1] / "egs" / "irmas" / "conf"
CLASSES = ["cello", "flute", "voice"]
SETTINGS = Score("mean", "mixtures", ["cello", "flute"])


def clips(count=9):
    made = []
    for i in range(count):
        labels = {name: float(k == i % 3) for k, name in enumerate(CLASSES)}
        name = f"clip {i}"
        made.append(Clip(name, f"group {i // 2}", f"{i}.wav", 0.0, "valid", labels, seconds=3.0))
    return made


def test_mixtures_have_one_to_three_recordings_whatever_the_order():
    drawn = mixtures.draw(clips(), 60)
    sizes = [len(mixture) for mixture in drawn]
    assert [sizes.count(size) for size in mixtures.SIZES] == [20, 20, 20]
    for mixture in drawn:
        groups = [{clip.group for clip in recording} for recording, _ in mixture]
        assert all(len(group) == 1 for group in groups)
        assert len(set.union(*groups)) == len(mixture)
        assert all(-mixtures.GAIN_DB <= level <= 0 for _, level in mixture)
    assert mixtures.draw(clips()[::-1], 60) == drawn
    assert mixtures.draw(clips(), 60, seed=1) != drawn


def test_a_mixture_has_the_labels_of_all_its_clips():
    first, second, third = clips(3)
    mixed = mixtures.labelled([[([first], 0.0)], [([second], 0.0), ([third], -3.0)]])
    assert [clip.labels for clip in mixed] == [
        {"cello": 1.0, "flute": 0.0, "voice": 0.0},
        {"cello": 0.0, "flute": 1.0, "voice": 1.0},
    ]


def test_a_mixture_is_the_sum_of_recordings_at_equal_power_cut_into_windows(tmp_path):
    """The shorter recording, of one clip, is repeated under the two clips of the other."""
    rng = np.random.default_rng(0)
    sounds = rng.uniform(-0.1, 0.1, (3, 48_000)) * [[1], [0.1], [0.2]]
    for i, sound in enumerate(sounds):
        soundfile.write(tmp_path / f"{i}.wav", sound, 16_000, subtype="FLOAT")
    feature = features.build("logmel", frames=304, seconds=3.0)
    first, second, third = clips(3)
    mixture = [([first], 0.0), ([second, third], -6.0)]
    loaded, counts = mixtures.load([mixture], CLASSES, tmp_path, feature)
    waveforms = [audio.decode(tmp_path / f"{i}.wav") for i in range(3)]
    longer = np.concatenate(waveforms[1:])
    total = np.tile(waveforms[0] / np.sqrt(np.mean(waveforms[0] ** 2)), 2)
    total += longer / np.sqrt(np.mean(longer**2)) * np.float32(10 ** (-6 / 20))
    total *= 0.9 / np.abs(total).max()
    expected = feature(torch.from_numpy(total.reshape(2, -1))).half()
    assert counts == [2]
    torch.testing.assert_close(loaded.batch(torch.arange(2)).features, expected)
    assert loaded.targets.tolist() == [[1.0, 1.0, 1.0]] * 2


def measured(seed=0, threshold=0.4):
    rng = np.random.default_rng(seed)
    targets = np.zeros((40, 3))
    targets[np.arange(40), rng.integers(3, size=40)] = 1
    targets[:10] = 1
    scores = np.clip(rng.normal(0.3 + 0.3 * targets, 0.2), 0, 1)
    mask = np.ones(targets.shape, bool)
    values = evaluation.measure_predominant(targets, mask, scores, CLASSES, threshold, SETTINGS)
    return targets, scores, values


def test_the_chosen_threshold_is_reported_beside_the_oracle():
    targets, scores, values = measured()
    labels = targets > 0.5
    expected = metrics.evaluate_predominant(labels, scores, 0.4, CLASSES, SETTINGS.merged)
    assert {key: values[key] for key in expected} == expected
    assert values["oracle"]["threshold"] == metrics.best_threshold(labels, scores)
    assert values["oracle"]["micro_f1"] >= values["micro_f1"]
    assert np.mean(list(values["f1"].values())) == pytest.approx(values["macro_f1"])


def test_unobserved_labels_are_refused():
    mask = np.array([[True, False]])
    with pytest.raises(ValueError, match="unobserved"):
        evaluation.measure_predominant(mask, mask, mask, ["a", "b"], 0.5, SETTINGS)


@pytest.fixture
def table(tmp_path):
    runs = []
    for seed in range(2):
        targets, scores, values = measured(seed)
        groups = np.repeat([f"recording {i}" for i in range(10)], 4)
        arrays = {"targets": targets, "scores": scores, "groups": groups}
        results = {
            "predominant": values,
            "arrays": arrays,
            "clips": 40,
            "backbone": {"weights": "none"},
            "classes": CLASSES,
        }
        runs.append(StoredRun(tmp_path, results))
    entries = published.read(CONF / "published.yaml")
    return Table("irmas", "clean", "none", [Method("ast_linear", runs)], entries)


def test_the_table_has_baselines_methods_and_an_interval_around_the_score(table):
    lines = predominant.lines(table)
    names = [line["method"] for line in lines]
    assert names[1:2] + names[-3:] == [
        "always cello + flute",
        "always all instruments",
        "random ranking",
        "ast_linear",
    ]
    line = lines[-1]
    assert line["threshold"] == "0.40"
    low, high = predominant.interval(table.methods[0])
    mean = np.mean([run["predominant"]["micro_f1"] for run in table.runs])
    assert low < mean < high
    assert line["micro-F1 %"].startswith(f"{100 * mean:.1f} ± ")
    assert all(line.keys() == lines[0].keys() for line in lines)


def test_published_results_stand_beside_the_genuine_test_split_alone(table):
    assert not any("published" in line["method"] for line in predominant.lines(table))
    for run in table.runs:
        run.results["clips"] = predominant.GENUINE_CLIPS
    lines = [line for line in predominant.lines(table) if "published" in line["method"]]
    assert len(lines) == 6
    values = {"micro-F1 %": set(), "macro-F1 %": set(), "LRAP %": set(), "top-1, merged %": set()}
    for line in lines:
        for heading in values:
            values[heading].add(line[heading])
    assert values == {
        "micro-F1 %": {"-", "61.9", "68.2", "69.2", "69.5"},
        "macro-F1 %": {"-", "51.3", "62.1", "63.1"},
        "LRAP %": {"-", "81.6"},
        "top-1, merged %": {"-", "15.0", "50.9"},
    }


def test_a_table_of_other_runs_has_none(table):
    for run in table.runs:
        del run.results["predominant"]
    assert predominant.lines(table) == []
    assert predominant.scored(table) == []


def test_confusions_are_counted_on_clips_of_one_instrument(table):
    method = predominant.best(table)
    total = confusion.counts(method)
    expected = np.zeros((3, 3), int)
    for run in table.runs:
        arrays = run.results["arrays"]
        for targets, scores in zip(arrays["targets"], arrays["scores"], strict=True):
            if targets.sum() == 1:
                expected[targets.argmax(), scores.argmax()] += 1
    np.testing.assert_array_equal(total, expected)
    axes = confusion.draw(method).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == CLASSES
    assert len(axes.texts) == np.count_nonzero(expected)
