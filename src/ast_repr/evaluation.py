"""Evaluate trained runs on the test split.

A run is evaluated again if its inputs (checkpoints, config, manifest, classes, weights), whose
sha256 are in results.json, or a file of its results have changed. If the truth of all test clips is
known, the run is evaluated on it too.
"""

import subprocess
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import (
    atomic,
    checkpoint,
    devices,
    features,
    identity,
    inference,
    manifest,
    metrics,
    model_spec,
    registry,
)
from .classifier import HeadOnlyModel, Reprogrammed, probabilities
from .data import dataset, feature_store, mixtures, windows
from .run_folder import RunFolder
from .settings import Config, Score
from .training import augment, embedding_cache, trainer

SPLIT = "test"
BATCH = 16
THRESHOLD = 0.5
SCARCE = 20  # clips with a tag, up to which its average precision is mostly chance


@dataclass(frozen=True)
class WindowedSplit:
    """Clips and their windows.

    Attributes:
        clips: N clips.
        classes: names of the K classes.
        windows: with features, those of a clip in a row.
        counts: number of windows of each clip.
    """

    clips: list[manifest.Clip]
    classes: list[str]
    windows: dataset.Clips
    counts: list[int]

    @property
    def names(self) -> list[str]:
        """Names of the clips."""
        return [clip.clip for clip in self.clips]

    def targets(self) -> tuple[np.ndarray, np.ndarray]:
        """Return relevances and a mask of the clips, (N, K) each; see `manifest.targets`."""
        return manifest.targets(self.clips, self.classes)

    def combine(self, scores: np.ndarray, settings: Score | None = None) -> np.ndarray:
        """Combine the probabilities of windows into those of clips, (N, K).

        By default they are averaged.
        """
        function = inference.AGGREGATES["mean" if settings is None else settings.aggregate]
        parts = np.split(scores, np.cumsum(self.counts)[:-1])
        return np.stack([function(part, axis=0) for part in parts])


@dataclass
class Evaluator:
    """Evaluates runs on one corpus and one backbone.

    Attributes:
        data: folder of the corpus, with its feature stores and embeddings.
        clips, classes: of its manifest.
        weights: file of the backbone.
        cache: test splits and embeddings.
    """

    data: str | Path
    clips: list[manifest.Clip]
    classes: list[str]
    weights: str | Path
    device: torch.device
    cache: dict[str, Any] = field(default_factory=dict)

    def evaluate(
        self, run: RunFolder, state: dict, conf: Config, allow: Collection[str] = ()
    ) -> str | None:
        """Evaluate a run, unless its results exist and were made from the same inputs.

        Args:
            state: from `read_state`, of a finished run.
            conf: the config of the run.
            allow: names of classes outside of the package that the run may use.

        Returns:
            a line about the result; None if there was nothing to do.
        """
        if not run.has_history(state["history"]):
            run.write_history(state["history"])  # for the report
        feature = features.build(**registry.resolve("feature", conf.feature.to_dict(), allow))
        made_from = self._made_from(state, conf, feature)
        existing = run.read_results()
        if existing and existing.get("made_from") == made_from and run.matches(existing["files"]):
            return None
        test = self._test_split(conf, feature)
        history = state["history"]
        if conf.select.split == SPLIT:
            history = self._choose_on_test(run, history, conf, test, allow)
        best = run.best(conf.select.split, conf.select.metric)
        model = self._restore(best, conf, allow)
        scores = self._scores(model, test, conf, feature, state, str(run), self.data)
        truth = self._truth(test)
        files = [run.history, *self._write_arrays(run, model, test, scores, truth, conf)]
        if conf.select.split == SPLIT:
            files.append(best)
        results = describe(conf, state["about"], history)
        targets, mask = test.targets()
        results |= {
            "split": SPLIT,
            "clips": len(test.names),
            "observed": int(mask.sum()),
            "threshold": THRESHOLD,
            "classes": self.classes,
        }
        results |= self._measure(targets, mask, scores)
        if truth is not None:
            results["truth"] = {"sha256": manifest.truth_sha256(self._clips_with_truth)}
            results["truth"] |= self._measure(truth, np.ones(truth.shape, bool), scores)
        best_sources = getattr(model.head, "best_sources", None)
        if best_sources is not None:
            names = model_spec.source_classes(conf.run.backbone, self.weights)
            results["best_sources"] = {
                name: names[index] if names else f"source {index}"
                for name, index in zip(self.classes, best_sources, strict=True)
            }
        if conf.score is not None and conf.score.task == "predominant":
            threshold = self._threshold(model, conf, feature, state, str(run))
            results["predominant"] = measure_predominant(
                targets, mask, scores, self.classes, threshold, conf.score
            )
        if conf.score is not None and conf.score.task == "tags":
            results["tags"] = {
                "threshold": THRESHOLD,
                "score": asdict(conf.score),
                "scarce": scarce_tags(self.clips, self.classes),
            }
        results["command"] = run.read_command()
        results["commit"] = commit()
        results["made_from"] = made_from
        results["files"] = {path.name: identity.of_file(path) for path in files}
        run.write_results(results)
        return summarise(results)

    def _restore(self, path, conf, allow):
        """Restore the model of a checkpoint, in the precision of its training."""
        model, _ = inference.restore(path, self.weights, allow)
        model.bf16 = devices.uses_bf16(self.device, conf.train.precision)
        return model.to(self.device)

    def _made_from(self, state, conf, feature):
        made_from = {
            "checkpoints": state["hashes"],
            "config": identity.of_values(conf.to_dict()),
            "manifest": conf.run.manifest_sha256,
            "classes": identity.of_values(self.classes),
            "weights": conf.run.weights_sha256,
            "feature": feature.spec(),
        }
        if conf.score is not None and conf.score.task == "predominant":
            settings = [*mixtures.SETTINGS, metrics.TOLERANCE]
            made_from["mixtures"] = identity.of_values(settings)
        if self._clips_with_truth:
            made_from["truth"] = manifest.truth_sha256(self._clips_with_truth)
        return made_from

    @property
    def _clips_with_truth(self):
        """The test clips if the truth of all is known, otherwise none."""
        clips = [clip for clip in self.clips if clip.split == SPLIT]
        return clips if all(clip.truth for clip in clips) else []

    def _truth(self, test):
        """Return the truth (N, K) of the clips in `test`; None if unknown."""
        return manifest.truth(test.clips, self.classes) if self._clips_with_truth else None

    def _test_split(self, conf, feature):
        name = conf.feature.name
        window = features.window(feature)
        key = (name, window)
        if key not in self.cache:
            stores = Path(self.data) / "features"
            identities = manifest.identities(windows.of_clips(self.clips, window), name)
            store = feature_store.Store(stores / name, feature.spec(), identities)
            usable = feature_store.usable(stores, self.clips)
            clips = [clip for clip in usable if clip.split == SPLIT]
            loaded = dataset.load(windows.of_clips(clips, window), self.classes, store)
            counts = [len(windows.of_clip(clip, window)) for clip in clips]
            self.cache[key] = WindowedSplit(clips, self.classes, loaded, counts)
        return self.cache[key]

    def _scores(self, model, split, conf, feature, state, label, data):
        """Compute the probabilities (N, K) of the clips of a WindowedSplit.

        `data` is the folder that keeps embeddings; None to keep them in memory alone.
        """
        parts = split.windows
        if conf.test_augment is not None:
            scores = self._average_shifts(model, parts, feature, conf.test_augment.semitones)
            return split.combine(scores, conf.score)
        if model.head_only:
            cache = embedding_cache.EmbeddingCache(
                data, conf.feature.name, feature.spec(), self.cache
            )
            spec = state["about"]["spec"]
            embeddings, _ = cache.read(model, parts, spec, self.device, f"{label}: embed")
            parts = parts.with_features(embeddings)
            model = HeadOnlyModel(model)
        scores = probabilities(model, parts.batches(BATCH), self.device)
        return split.combine(scores, conf.score)

    def _average_shifts(self, model, windows, feature, semitones):
        """Average the probabilities of windows over pitch shifts from -semitones to semitones."""
        scores = []
        for shift in np.linspace(-semitones, semitones, augment.SHIFTS):
            batches = (batch.to(self.device) for batch in windows.batches(BATCH))
            shifted = (augment.shift_pitch(batch, feature, shift) for batch in batches)
            scores.append(probabilities(model, shifted, self.device))
        return np.mean(scores, axis=0)

    def _threshold(self, model, conf, feature, state, label):
        """Return the threshold of a predominant instrument."""
        if conf.score.threshold == "half":
            return THRESHOLD
        key = ("mixtures", conf.feature.name, features.window(feature))
        if key not in self.cache:
            valid = [clip for clip in self.clips if clip.split == "valid"]
            drawn = mixtures.draw(valid)
            loaded, counts = mixtures.load(drawn, self.classes, self.data, feature)
            labelled = mixtures.labelled(drawn)
            self.cache[key] = WindowedSplit(labelled, self.classes, loaded, counts)
        mixed = self.cache[key]
        scores = self._scores(model, mixed, conf, feature, state, label, None)
        targets, _ = mixed.targets()
        return metrics.middle_threshold(targets >= manifest.PRESENT, scores)

    def _choose_on_test(self, run, history, conf, test, allow):
        """Evaluate each epoch on test and keep the best, as the paper did.

        Returns:
            the history with the metrics on test.
        """
        history = [dict(entry) for entry in history]
        targets, mask = test.targets()
        for entry in history:
            path = run.epoch(entry["epoch"])
            if path.is_file():
                model = self._restore(path, conf, allow)
                scores = probabilities(model, test.windows.batches(BATCH), self.device)
                values = metrics.evaluate(targets, mask, test.combine(scores, conf.score))
                entry[SPLIT] = {name: values[name] for name in metrics.SUMMARY}
        chosen = run.epoch(trainer.best(history, conf.select)["epoch"])
        best = run.best(conf.select.split, conf.select.metric)
        atomic.write_bytes(best, chosen.read_bytes())
        return history

    def _write_arrays(self, run, model, test, scores, truth, conf):
        """Write predictions.npz and, for a reprogrammer, example.npz; return their paths."""
        targets, mask = test.targets()
        predictions = {
            "clips": np.array(test.names),
            "classes": np.array(self.classes),
            "scores": scores,
            "targets": targets,
            "mask": mask,
            "groups": np.array([clip.group for clip in test.clips]),
        }
        if truth is not None:
            predictions["truth"] = truth
        arrays = {run.predictions: predictions}
        if conf.reprogrammer.name != "none":
            arrays[run.example] = example(model, test.windows, self.classes, self.device)
        for path, values in arrays.items():
            with atomic.replacing(path) as partial, open(partial, "wb") as file:
                np.savez_compressed(file, **values)
        return list(arrays)

    def _measure(self, targets, mask, scores):
        return {
            "metrics": metrics.evaluate(targets, mask, scores, THRESHOLD, self.classes),
            "constant_baselines": metrics.constant_baselines(targets, mask, self.classes),
        }


def measure_predominant(
    targets: np.ndarray,
    mask: np.ndarray,
    scores: np.ndarray,
    classes: list[str],
    threshold: float,
    settings: Score,
) -> dict[str, Any]:
    """Measure the recognition of predominant instruments.

    Returns:
        dict: the threshold, the settings of the score, and the values of metrics.PREDOMINANT at
        the threshold; f1, {instrument: value}; oracle, the same with the threshold that is best on
        these labels; baselines.

    Raises:
        ValueError: a label is unobserved.
    """
    if not mask.all():
        raise ValueError("score: an unobserved label; expected all to be, or `score: null`")
    labels = targets >= manifest.PRESENT
    values = {"threshold": threshold, "score": asdict(settings)}
    values |= metrics.evaluate_predominant(labels, scores, threshold, classes, settings.merged)
    values["f1"] = {}
    for k, name in enumerate(classes):
        predicted = scores[:, k] >= threshold
        undefined = not (labels[:, k].any() or predicted.any())
        values["f1"][name] = None if undefined else metrics.f1(labels[:, k], predicted)
    best = metrics.best_threshold(labels, scores)
    values["oracle"] = {"threshold": best}
    values["oracle"] |= metrics.evaluate_predominant(labels, scores, best, classes, settings.merged)
    values["baselines"] = metrics.predominant_baselines(labels, classes, settings.merged)
    return values


def scarce_tags(clips: list[manifest.Clip], classes: list[str]) -> dict[str, dict[str, int]]:
    """Count the present clips of tags with SCARCE or fewer in a split: {tag: {split: count}}."""
    counts = {name: {"valid": 0, SPLIT: 0} for name in classes}
    for clip in clips:
        for name, relevance in clip.labels.items():
            if clip.split in counts[name] and relevance >= manifest.PRESENT:
                counts[name][clip.split] += 1
    return {name: count for name, count in counts.items() if min(count.values()) <= SCARCE}


def read_state(run: RunFolder) -> dict:
    """Read last.pt.

    Raises:
        ValueError: it does not exist.
    """
    state = trainer.read_last(run)
    if state is None:
        raise ValueError(f"{run}: no trained run; run the stage `train` first")
    return state


def check_finished(run: RunFolder, state: dict, plan: trainer.Plan) -> None:
    """Check that training has ended and its checkpoints are intact.

    Raises:
        ValueError: it was interrupted.
        CheckpointError: a checkpoint is missing or another.
    """
    if not trainer.finished(state["history"], plan):
        epochs = len(state["history"])
        raise ValueError(f"{run}: stopped after epoch {epochs}; run the stage `train` to resume it")
    if not run.matches(state["hashes"]):
        raise checkpoint.CheckpointError(
            f"{run}: {', '.join(state['hashes'])}: missing, damaged or of another run; "
            "run the stage `train` again, which restores it"
        )


def describe(conf: Config, about: dict, history: list[dict]) -> dict:
    """Describe a run for results.json: its settings, size, choice of epoch and cost."""
    select = conf.select
    chosen = trainer.best(history, select)
    epochs = history[-1]["epoch"]
    seconds = sum(entry["seconds"] for entry in history)
    weights = conf.backbone.weights
    backbone = {
        "name": conf.run.backbone,
        "weights": weights,
        "sha256": None if weights == "none" else about["backbone_sha256"],
    }
    if "stride" in conf.backbone.options:
        backbone["stride"] = conf.backbone.options["stride"]
    optional = {}
    if conf.adapter is not None:
        optional["adapter"] = conf.adapter.name
    if conf.test_augment is not None:
        optional["test_augment"] = asdict(conf.test_augment)
    was_validated = epochs > 0 and select.split != SPLIT
    stopped_improving = trainer.stopped_improving(history, trainer.Plan.of(conf))
    return {
        "corpus": conf.run.corpus,
        "protocol": conf.protocol,
        "conf": conf.run.conf,
        "seed": conf.run.seed,
        "feature": conf.feature.name,
        "norm": conf.input.norm,
        "reprogrammer": conf.reprogrammer.name,
        **optional,
        "clip_fraction": conf.train.clip_fraction,
        "label_fraction": conf.train.label_fraction,
        "train_clips": about["train_clips"],
        "backbone": backbone,
        "trainable_parameters": about["trainable_parameters"],
        "total_parameters": about["total_parameters"],
        "macs": about["macs"],
        "teacher_macs": about.get("teacher_macs"),
        "selection": {
            **asdict(select),
            "epoch": chosen["epoch"],
            "value": chosen[select.split][select.metric],
        },
        "epochs": epochs,
        "ended_at_cap": was_validated and not stopped_improving,
        "train_seconds": round(about["prepare_seconds"] + seconds, 3),
        "seconds_per_epoch": round(seconds / epochs, 3) if epochs else 0.0,
        "machine": about["device"],
    }


def summarise(results: dict) -> str:
    """Describe the main result in a line."""
    macro_f1 = results["metrics"]["macro_f1"]
    score = "no macro-F1" if macro_f1 is None else f"macro-F1 {macro_f1:.3f}"
    epoch = f"epoch {results['selection']['epoch']} of {results['epochs']}"
    return f"{score} on {results['clips']} {results['split']} clips ({epoch})"


@torch.no_grad()
def example(
    model: Reprogrammed, test: dataset.Clips, classes: list[str], device: torch.device
) -> dict[str, Any]:
    """Pass the test clip with most instruments through the reprogrammer.

    Returns:
        dict: before and after (T, F), clip (its name), instruments (separated by commas).
    """
    present = test.mask & (test.targets >= manifest.PRESENT)
    index = int(present.sum(1).argmax())
    before = model.normalise(test.batch(torch.tensor([index])).to(device).features)
    after = model.reprogrammer(before)
    names = [name for name, is_present in zip(classes, present[index], strict=True) if is_present]
    return {
        "before": before[0, 0].cpu().numpy(),
        "after": after[0, 0].cpu().numpy(),
        "clip": test.names[index],
        "instruments": ", ".join(names),
    }


def commit() -> str | None:
    """Return the abbreviated hash of the code's commit; None without git or a repository."""
    line = ["git", "rev-parse", "--short", "HEAD"]
    folder = Path(__file__).parent
    try:
        git = subprocess.run(line, cwd=folder, capture_output=True, text=True, encoding="utf-8")
    except OSError:
        return None
    return git.stdout.strip() or None
