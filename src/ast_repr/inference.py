"""A trained model as a function of waveforms.

    model = inference.load("exp/synthetic/ast_unet/seed0")
    probabilities = model(waveforms)          # (B, N) at 16 kHz -> (B, K), columns as in model.classes
"""

import itertools
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from . import audio, catalogue, checkpoint, features
from .backbones import weights
from .classifier import assemble


def restore(path, backbone_file=None):
    """Rebuild the classifier of a checkpoint, in eval mode.

    Args:
        path: a checkpoint file that the trainer wrote.
        backbone_file: where the backbone's weights are; default: where they were in training, else the known place of their name.

    Returns:
        (Reprogrammed, about): `about` is what the training script stored.

    Raises:
        ValueError: the checkpoint or the weights cannot be read, or the backbone is not the one it was trained on.
    """
    state = checkpoint.load(path)
    try:
        about, build = state["about"], dict(state["about"]["build"])
        backbone = {key: build["backbone"][key] for key in ("name", "options", "source", "file", "seed", "finetune")}
    except (KeyError, TypeError) as error:
        raise checkpoint.CheckpointError(
            f"{path}: not a trained model of this project, or of an older version ({error}); train it again"
        ) from error
    if backbone["file"] is not None:
        backbone["file"] = str(backbone_file or _find(backbone))
    model = assemble(about["classes"], **(build | {"backbone": backbone}))
    if not backbone["finetune"] and (found := weights.fingerprint(model.backbone)) != about["backbone_sha256"]:
        raise weights.WeightsError(
            f"{backbone['file']}: tensors have sha256 {found[:12]}..., the model was trained on {about['backbone_sha256'][:12]}...; pass the right file"
        )
    model.load_learned(state["learned"])
    return model.eval(), about


def _find(backbone):
    if Path(backbone["file"]).is_file():
        return backbone["file"]
    return catalogue.find(backbone["source"]).path


@dataclass(frozen=True)
class Heard:
    """What a model makes of ten seconds of a file, or of less at the end of a short one; or why the file cannot be heard."""

    path: object
    start_s: float = 0.0
    end_s: float = 0.0
    feature: np.ndarray | None = None  # (C, T, F)
    probabilities: np.ndarray | None = None  # (K,)
    error: ValueError | None = None


class Predictor:
    """Waveforms to probabilities, with the front end that the model was trained with.

    Attributes:
        classes: K names, in the order of the columns.
        threshold: the probability from which on an instrument is called present.
        about: what the training script stored with the model.

    Raises:
        ValueError: the model reads a feature that is not computed from sound.
    """

    def __init__(self, model, about, device="cpu"):
        self.model, self.about, self.classes = model.to(device), about, about["classes"]
        self.threshold = about.get("threshold", 0.5)
        self.device = torch.device(device)
        self.feature = features.build(**about["feature"])
        if hasattr(self.feature, "read"):
            raise ValueError(
                f"model trained on {about['feature']['name']}, which comes with its corpus, expected one that hears sound; "
                "take a model trained on logmel"
            )

    def __call__(self, waveforms):
        """(B, N) float32 waveforms at 16 kHz, of any length -> (B, K) probabilities, float32 numpy array.

        More than ten seconds are cut into windows of ten, the last one ending with the waveform, and averaged; less
        is padded with zeros.

        Raises:
            ValueError: not two-dimensional, or empty.
        """
        waveforms = np.asarray(waveforms, np.float32)
        if waveforms.ndim != 2 or not waveforms.size:
            raise ValueError(f"expected waveforms of shape (B, N) with at least one sample, found {waveforms.shape}")
        return np.mean([self._probabilities(self._feature(part)) for _, part in audio.windows([waveforms])], axis=0)

    def listen(self, paths, hop=audio.CLIP_SAMPLES, batch_size=16):
        """Hear files of any length in windows of ten seconds, in memory that grows with neither their lengths nor their number.

        Args:
            paths: the files, in the order in which they are heard; batches go across files.
            hop: samples at 16 kHz from one window to the next.
            batch_size: windows at once; results depend neither on it nor on the neighbours.

        Yields:
            Heard, for each window, in order; one with an error is the last of its file.
        """
        found = (one for path in paths for one in _windows(path, hop))
        while batch := list(itertools.islice(found, batch_size)):
            sound = [waveform for _, waveform in batch if waveform is not None]
            if sound:
                stored = self._feature(np.stack([audio.fit(waveform) for waveform in sound]))
                results = iter(zip(stored.numpy(), self._probabilities(stored)))
            for heard, waveform in batch:
                if waveform is not None:
                    feature, probabilities = next(results)
                    heard = replace(heard, feature=feature, probabilities=probabilities)
                yield heard

    def _feature(self, waveforms):
        padded = np.pad(waveforms, [(0, 0), (0, audio.CLIP_SAMPLES - waveforms.shape[1])])
        return self.feature(torch.from_numpy(padded)).half().float()  # the store's precision, which the model was trained on

    @torch.no_grad()
    def _probabilities(self, stored):
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # TensorFloat-32 makes results depend on the batch's size
            return self.model(stored.to(self.device)).sigmoid().cpu().numpy()


def _windows(path, hop):
    """(Heard without results, waveform (n,) or None) for each window of a file; the last may be an error."""
    try:
        for start, waveform in audio.windows(audio.stream(path), hop):
            yield Heard(path, start / audio.SAMPLE_RATE, (start + len(waveform)) / audio.SAMPLE_RATE), waveform
    except audio.AudioError as error:
        yield Heard(path, error=error), None


def load(path, device="cpu", backbone_file=None):
    """A Predictor from a run folder (its best checkpoint) or a checkpoint file.

    Raises:
        ValueError: there is none, or it cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        found = sorted(path.glob("best.*.pt"))
        if not found:
            raise checkpoint.CheckpointError(f"{path}: no best.*.pt; expected the folder of a finished run")
        path = found[0]
    return Predictor(*restore(path, backbone_file), device)
