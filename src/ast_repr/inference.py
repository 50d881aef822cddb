"""A trained model as a function of waveforms.

model = inference.load("exp/synthetic/ast_unet/seed0")      # or what src/export.py wrote: its folder, or a file of it
probabilities = model(waveforms)                            # (B, N) at 16 kHz -> (B, K), columns as in model.classes
"""

import itertools
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from . import audio, catalogue, checkpoint, features, graph, release
from .backbones import weights
from .classifier import assemble

THRESHOLD = 0.5  # of a model that brings none of its own
EXPORTED = (
    "model.safetensors",
    "model.onnx",
)  # in an exported folder, the first that is there is taken
KINDS = (".pt", ".safetensors", ".onnx")
LABELS = "labels.txt"  # beside them: one class a line


def restore(path, backbone_file=None):
    """Rebuild the classifier of a checkpoint or an exported file, in eval mode.

    Args:
        path: a checkpoint that the trainer wrote, or a .safetensors of src/export.py.
        backbone_file: where the backbone's weights are, if they are not inside; default: where they were in training, or beside
            an exported file, else the known place of their name.

    Returns:
        (Reprogrammed, about): `about` is what the training script or the export stored, and a "threshold".

    Raises:
        ValueError: the file or the weights cannot be read, or the backbone is not the one it was trained on.
    """
    path = Path(path)
    state = release.load(path) if path.suffix == ".safetensors" else checkpoint.load(path)
    try:
        about, build, learned = (
            {"threshold": THRESHOLD} | state["about"],
            dict(state["about"]["build"]),
            state["learned"],
        )
        backbone = {
            key: build["backbone"][key]
            for key in ("name", "options", "source", "file", "seed", "finetune")
        }
    except (KeyError, TypeError) as error:
        raise checkpoint.CheckpointError(
            f"{path}: not a trained model of this project, or of an older version ({error}); train it again"
        ) from error
    inside = any(name.startswith("backbone.") for name in learned)
    if inside:
        backbone["file"] = None
    elif backbone["file"] is not None:
        backbone["file"] = str(
            backbone_file or _find(path.parent / backbone["file"], backbone["source"])
        )
    model = assemble(about["classes"], **(build | {"backbone": backbone}))
    try:
        (model.load_state_dict if inside else model.load_learned)(learned)
    except RuntimeError as error:
        raise checkpoint.CheckpointError(
            f"{path}: tensors of another model ({error}); use the version that wrote it"
        ) from error
    if (
        not backbone["finetune"]
        and (found := weights.fingerprint(model.backbone)) != about["backbone_sha256"]
    ):
        remedy = (
            "pass the right file"
            if backbone["file"]
            else "random weights are drawn otherwise here; export the run with --merge"
        )
        raise weights.WeightsError(
            f"{backbone['file'] or path}: the backbone's tensors have sha256 {found[:12]}..., "
            f"the model was trained on {about['backbone_sha256'][:12]}...; {remedy}"
        )
    return model.eval(), about


def _find(file, source):
    if file.is_file():
        return file
    try:
        known = catalogue.find(source).path
    except (
        OSError,
        ValueError,
    ):  # the package was installed without the catalogue, or the backbone is not in it
        known = None
    if known and known.is_file():
        return known
    places = f"{file} or {known}" if known else file
    raise weights.WeightsError(
        f"no weights of the backbone {source}, expected at {places}; pass their file (--backbone-file), or put it there"
    )


@dataclass(frozen=True)
class Heard:
    """What a model makes of ten seconds of a file, or of less at the end of a short one.

    Attributes:
        silent: whether there is nothing to hear; all probabilities are 0 then.
        error: why the file cannot be read; nothing else is known then.
    """

    path: object
    start_s: float = 0.0
    end_s: float = 0.0
    feature: np.ndarray | None = None  # (C, T, F)
    probabilities: np.ndarray | None = None  # (K,)
    silent: bool = False
    error: ValueError | None = None


class Predictor:
    """Waveforms to probabilities, with the front end that the model was trained with.

    Attributes:
        about: what is stored with the model.
        classes: K names, in the order of the columns.
        threshold: the probability from which on an instrument is called present.

    Raises:
        ValueError: the model reads a feature that is not computed from sound, or one that is computed otherwise here.
    """

    def __init__(self, about):
        self.about, self.classes, self.threshold = about, about["classes"], about["threshold"]
        self.feature = features.build(**about["feature"])
        if hasattr(self.feature, "read"):
            raise ValueError(
                f"model trained on {about['feature']['name']}, which comes with its corpus, expected one that hears sound; "
                "take a model trained on logmel"
            )
        if (found := self.feature.spec()) != about.get("feature_spec", found):
            raise ValueError(
                f"model exported with the front end {about['feature_spec']}, here it is {found}; use the version that exported it"
            )

    def probabilities(self, stored):
        """(B, C, T, F) features, a float32 tensor on the CPU -> (B, K) array; each kind of model has its own."""
        raise NotImplementedError

    def __call__(self, waveforms):
        """(B, N) float32 waveforms at 16 kHz, of any length -> (B, K) probabilities, float32 numpy array.

        More than ten seconds are cut into windows of ten, the last one ending with the waveform,
        and averaged; less is padded with zeros. Silence has the probability 0 of every instrument.

        Raises:
            ValueError: not two-dimensional, or empty.
        """
        waveforms = np.asarray(waveforms, np.float32)
        if waveforms.ndim != 2 or not waveforms.size:
            raise ValueError(
                f"expected waveforms of shape (B, N) with at least one sample, found {waveforms.shape}"
            )
        windows = [self._predict(part)[1] for _, part in audio.windows([waveforms])]
        return np.mean(windows, axis=0)

    def listen(self, paths, hop=audio.CLIP_SAMPLES, batch_size=16, warn=warnings.warn):
        """Predict files of any length in windows of ten seconds.

        Memory grows with neither their lengths nor their number. Damaged files are read as far as
        they can be, with a warning.

        Args:
            paths: the files, in the order in which they are heard; batches go across files.
            hop: samples at 16 kHz from one window to the next.
            batch_size: windows at once; results depend neither on it nor on the neighbours.
            warn: called with a line about each file that is damaged, or whose samples exceed +-1.

        Yields:
            Heard, for each window, in order; one with an error is the last of its file.
        """
        found = (one for path in paths for one in _windows(path, hop, warn))
        while batch := list(itertools.islice(found, batch_size)):
            sound = [waveform for _, waveform in batch if waveform is not None]
            if sound:
                results = zip(*self._predict(np.stack([audio.fit(one) for one in sound])))
            for heard, waveform in batch:
                if waveform is not None:
                    feature, probabilities = next(results)
                    heard = replace(heard, feature=feature, probabilities=probabilities)
                yield heard

    def _predict(self, waveforms):
        """(B, n) of at most ten seconds -> (features (B, C, T, F), probabilities (B, K)), arrays."""
        stored = self._feature(waveforms)
        probabilities = np.array(self.probabilities(stored))
        probabilities[[audio.is_silent(waveform) for waveform in waveforms]] = 0.0
        return stored.numpy(), probabilities

    def _feature(self, waveforms):
        padded = np.pad(waveforms, [(0, 0), (0, audio.CLIP_SAMPLES - waveforms.shape[1])])
        return (
            self.feature(torch.from_numpy(padded)).half().float()
        )  # the store's precision, which the model was trained on


class TorchPredictor(Predictor):
    """A Predictor around a Reprogrammed, `model`, on a torch device."""

    def __init__(self, model, about, device="cpu"):
        super().__init__(about)
        self.model, self.device = model.to(device), torch.device(device)

    @torch.no_grad()
    def probabilities(self, stored):
        """(B, C, T, F) features -> (B, K) array."""
        with torch.backends.cudnn.flags(
            enabled=True, allow_tf32=False
        ):  # TensorFloat-32 makes results depend on the batch's size
            return self.model(stored.to(self.device)).sigmoid().cpu().numpy()


class GraphPredictor(Predictor):
    """A Predictor around a graph.Graph, which onnxruntime runs on the CPU."""

    def __init__(self, network):
        super().__init__(network.about)
        self.network = network

    def probabilities(self, stored):
        """(B, C, T, F) features -> (B, K) array."""
        return self.network(stored)


def _windows(path, hop, warn):
    """Cut a file into windows.

    Yields:
        (Heard without results, waveform (n,)); last of all maybe (Heard with an error, None).
    """
    try:
        for start, waveform in audio.windows(audio.stream(path, warn, damaged=True), hop):
            start_s = start / audio.SAMPLE_RATE
            end_s = (start + len(waveform)) / audio.SAMPLE_RATE
            yield Heard(path, start_s, end_s, silent=audio.is_silent(waveform)), waveform
    except audio.AudioError as error:
        yield Heard(path, error=error), None


def best(folder):
    """The best checkpoint of a run folder.

    Raises:
        ValueError: there is none.
    """
    found = sorted(Path(folder).glob("best.*.pt"))
    if not found:
        raise checkpoint.CheckpointError(
            f"{folder}: no best.*.pt; expected the folder of a finished run (under the paper's protocol the stage score chooses the epoch)"
        )
    return found[0]


def load(path, device="cpu", backbone_file=None):
    """A Predictor from a run folder (its best checkpoint), a checkpoint, an exported folder, or a .safetensors or .onnx of one.

    Args:
        path: see above.
        device: where torch computes; an .onnx is run on the CPU.
        backbone_file: see `restore`.

    Raises:
        ValueError: there is none, it cannot be read, or it is not what it says it is.
    """
    path = Path(path)
    if path.is_dir():
        path = next((path / name for name in EXPORTED if (path / name).is_file()), None) or best(
            path
        )
    elif path.suffix not in KINDS:
        found = "another kind of file" if path.exists() else "nothing there"
        raise ValueError(
            f"{path}: {found}, expected a run folder, a checkpoint (.pt), or what src/export.py wrote; name one of these"
        )
    predictor = (
        GraphPredictor(graph.Graph(path))
        if path.suffix == ".onnx"
        else TorchPredictor(*restore(path, backbone_file), device)
    )
    if path.suffix != ".pt":
        _compare_labels(path.with_name(LABELS), predictor.classes)
    return predictor


def _compare_labels(path, classes):
    """Refuse class names in a labels.txt that are not the model's; it need not be there."""
    if path.is_file() and (
        found := path.read_text(encoding="utf-8", errors="replace").rstrip("\n")
    ) != "\n".join(classes):
        raise release.ReleaseError(
            f"{path}: found {', '.join(found.splitlines())}; the model's classes are {', '.join(classes)}, in this order; "
            "put the right one there, or delete it"
        )
