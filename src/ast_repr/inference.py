"""A trained model as a function of waveforms.

    model = inference.load("exp/synthetic/ast_unet/seed0")
    probabilities = model(waveforms)          # (B, N) at 16 kHz -> (B, K), columns as in model.classes
"""

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
    except (KeyError, TypeError) as error:
        raise checkpoint.CheckpointError(f"{path}: not a trained model of this project") from error
    backbone = dict(build["backbone"])
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


class Predictor:
    """Waveforms to probabilities, with the front end that the model was trained with.

    Attributes:
        classes: K names, in the order of the columns.
        about: what the training script stored with the model.
    """

    def __init__(self, model, about, device="cpu"):
        self.model, self.about, self.classes = model.to(device), about, about["classes"]
        self.device = torch.device(device)
        self.feature = features.build(**about["feature"])

    @torch.no_grad()
    def __call__(self, waveforms):
        """(B, N) float32 waveforms at 16 kHz, of any length -> (B, K) probabilities, float32 numpy array.

        More than ten seconds are cut into windows of ten, the last one ending with the waveform, and averaged; less
        is padded with zeros.

        Raises:
            ValueError: not two-dimensional, or empty.
        """
        waveforms = torch.as_tensor(np.asarray(waveforms), dtype=torch.float32)
        if waveforms.ndim != 2 or not waveforms.numel():
            raise ValueError(f"expected waveforms of shape (B, N) with at least one sample, found {tuple(waveforms.shape)}")
        length = waveforms.shape[1]
        starts = list(range(0, max(length - audio.CLIP_SAMPLES, 0), audio.CLIP_SAMPLES)) + [max(length - audio.CLIP_SAMPLES, 0)]
        return np.mean([self._window(waveforms[:, start : start + audio.CLIP_SAMPLES]) for start in starts], axis=0)

    def _window(self, waveforms):
        padded = torch.nn.functional.pad(waveforms, (0, audio.CLIP_SAMPLES - waveforms.shape[1]))
        stored = self.feature(padded).half().float()  # the store's precision, which the model was trained on
        return self.model(stored.to(self.device)).sigmoid().cpu().numpy()


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
