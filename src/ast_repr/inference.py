"""A trained model as a function of waveforms.

    model = inference.load("exp/synthetic/ast_unet/seed0")   # or what src/export.py wrote
    probabilities = model(waveforms)    # (B, N) at 16 kHz -> (B, K), columns as in model.classes

What is loaded may be anybody's file: it is checked before anything is built, and a class outside of
the package is built only if the caller allows its very name.
"""

import itertools
import warnings
from collections.abc import Collection
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from . import atomic, audio, checkpoint, features, pretrained, registry, typecheck
from .backbones import weights
from .classifier import build_model
from .export import onnx, safetensors
from .model_spec import ModelSpec, SpecError
from .run_folder import RunFolder

EXPORTED = ("model.safetensors", "model.onnx")  # of an exported folder the first that is there
KINDS = (".pt", ".safetensors", ".onnx")
LABELS = "labels.txt"  # beside them: one class a line
MOST_VALUES = 10**9  # of all tensors of a model; AST-base has 87 million


def restore(path, backbone_file=None, allow: Collection[str] = ()):
    """Rebuild the classifier of a checkpoint or an exported file, in eval mode.

    Args:
        path: a checkpoint that the trainer wrote, or a .safetensors of src/export.py.
        backbone_file: where the backbone's weights are, if they are not inside; default: where they
            were in training, or beside an exported file, else the known place of their name.
        allow: names of classes outside of the package that the model may be built from, such as
            "mine.Gain". Their modules are imported, which runs code.

    Returns:
        (Reprogrammed, about): `about` is what the training script or the export stored, and a
        "threshold".

    Raises:
        ValueError: the file or the weights cannot be read, it names a class that is not allowed, or
            the backbone is not the one it was trained on.
    """
    path = Path(path)
    state = safetensors.load(path) if path.suffix == ".safetensors" else checkpoint.load(path)
    with _naming(path):
        spec = _describe(_get(state, "about"), allow)
        learned = _get(state, "learned")
        if not all(isinstance(name, str) and _is_plain(learned[name]) for name in learned):
            raise SpecError("found something other than plain tensors under 'learned'")
    inside = any(name.startswith("backbone.") for name in learned)
    with _naming(path):
        _rehearse(spec, learned, inside, allow)
    file = None
    if spec.backbone.file is not None and not inside:
        file = str(backbone_file or _find(path, spec.backbone))
    model = build_model(spec.classes, **spec.build(file), allow=allow)
    with _naming(path):
        _fill(model, learned, inside)
    if not spec.backbone.finetune:
        found = weights.fingerprint(model.backbone)
        if found != spec.backbone_sha256:
            remedy = "random weights are drawn otherwise here; export the run with --merge"
            if file:
                remedy = "pass the right file"
            raise weights.WeightsError(
                f"{file or path}: the backbone's tensors have sha256 {found[:12]}..., the model "
                f"was trained on {spec.backbone_sha256[:12]}...; {remedy}"
            )
    return model.eval(), state["about"] | {"threshold": spec.threshold}


@contextmanager
def _naming(path):
    """Put the file's name before what is wrong with the model in it."""
    try:
        yield
    except registry.NotAllowedError as error:
        raise registry.NotAllowedError(f"{path}: {error}") from error
    except (ValueError, RuntimeError) as error:  # RuntimeError: sizes and tensors torch refuses
        raise checkpoint.CheckpointError(
            f"{path}: not a trained model of this project, or of another version ({error}); "
            "use the version that wrote it, or train or export it again"
        ) from error


def _describe(about, allow):
    """The ModelSpec in what a file says, whose feature is here what it was there."""
    spec = ModelSpec.from_dict(about)
    feature = features.build(**registry.resolve("feature", spec.feature, allow))
    sides = spec.backbone.options["frames"], spec.backbone.options["mels"]
    if sides != (feature.frames, feature.bins):
        raise SpecError(
            f"found a network for {sides[0]} frames of {sides[1]} bands under a feature of "
            f"{feature.frames} frames of {feature.bins}"
        )
    here = feature.spec()
    there = here if spec.feature_spec is None else spec.feature_spec
    for key in {**here, **there}:
        if there.get(key) != here.get(key):
            raise SpecError(
                f"found the front end's {key} {typecheck.shown(there.get(key))}, "
                f"expected {here.get(key)!r}"
            )
    return spec


def _is_plain(value):
    return (
        isinstance(value, torch.Tensor)
        and value.layout is torch.strided
        and not (value.is_quantized or value.is_complex())
    )


def _get(state, key):
    if not isinstance(state, dict) or not isinstance(state.get(key), dict):
        raise SpecError(f"found no {key!r}")
    return state[key]


def _rehearse(spec, learned, inside, allow):
    """Build the model without memory, and refuse one that is too large or has other tensors.

    A class from outside may need real tensors to be built, and is trusted: it is not rehearsed.
    """
    for kind, section in spec.sections().items():
        registry.resolve(kind, section, allow)
    if registry.outside(spec.sections()):
        return
    with torch.device("meta"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*meta parameter")  # nothing is copied there
        model = build_model(spec.classes, **spec.build(None), allow=allow)
        count = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
        if count > MOST_VALUES:
            raise SpecError(
                f"found {count:,} values in its tensors, expected {MOST_VALUES:,} at most"
            )
        _fill(model, learned, inside)


def _fill(model, learned, inside):
    if inside:
        model.load_state_dict(learned)
    else:
        model.load_trainable_state_dict(learned)


def _find(path, backbone):
    """The file of a backbone's weights.

    A checkpoint says where it was in training; an exported file has a plain name, beside itself.
    """
    file = path.parent / backbone.file
    if path.suffix != ".pt" and Path(backbone.file).name != backbone.file:
        raise checkpoint.CheckpointError(
            f"{path}: names {backbone.file!r} as its backbone, expected a file beside it; "
            "pass the right one (--backbone-file)"
        )
    if file.is_file():
        return file
    try:
        known = pretrained.find(backbone.source).path
    except (OSError, ValueError):  # installed without the catalogue, or the backbone is not in it
        known = None
    if known and known.is_file():
        return known
    places = f"{file} or {known}" if known else file
    raise weights.WeightsError(
        f"{path}: no weights of the backbone {backbone.source}, expected at {places}; "
        "pass their file (--backbone-file), or put it there"
    )


@dataclass(frozen=True)
class WindowPrediction:
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
        ValueError: what is stored is no model's, or the feature that it reads is not allowed, or
            not computed from sound.
    """

    def __init__(self, about, allow: Collection[str] = ()):
        spec = ModelSpec.from_dict(about)
        self.about = about
        self.classes = spec.classes
        self.threshold = spec.threshold
        self.feature = features.build(**registry.resolve("feature", spec.feature, allow))
        if hasattr(self.feature, "read"):
            raise ValueError(
                f"model trained on {spec.feature['name']}, which comes with its corpus, "
                "expected one that hears sound; take a model trained on logmel"
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

    def predict_files(self, paths, hop=audio.CLIP_SAMPLES, batch_size=16, warn=warnings.warn):
        """Predict files of any length in windows of ten seconds.

        Memory grows with neither their lengths nor their number. Damaged files are read as far as
        they can be, with a warning.

        Args:
            paths: the files, in the order in which they are heard; batches go across files.
            hop: samples at 16 kHz from one window to the next.
            batch_size: windows at once; results depend neither on it nor on the neighbours.
            warn: called with a line about each file that is damaged, or whose samples exceed +-1.

        Yields:
            WindowPrediction, for each window, in order; one with an error is the last of its file.
        """
        found = (one for path in paths for one in _windows(path, hop, warn))
        while batch := list(itertools.islice(found, batch_size)):
            sound = [waveform for _, waveform in batch if waveform is not None]
            if sound:
                results = zip(*self._predict(np.stack([audio.fit(one) for one in sound])))
            for window, waveform in batch:
                if waveform is not None:
                    feature, probabilities = next(results)
                    window = replace(window, feature=feature, probabilities=probabilities)
                yield window

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

    def __init__(self, model, about, device="cpu", allow: Collection[str] = ()):
        super().__init__(about, allow)
        self.model, self.device = model.to(device), torch.device(device)

    @torch.no_grad()
    def probabilities(self, stored):
        """(B, C, T, F) features -> (B, K) array."""
        with torch.backends.cudnn.flags(
            enabled=True, allow_tf32=False
        ):  # TensorFloat-32 makes results depend on the batch's size
            found = self.model(stored.to(self.device)).sigmoid().cpu().numpy()
        return _in_range(found)


class GraphPredictor(Predictor):
    """A Predictor around a onnx.Graph, which onnxruntime runs on the CPU."""

    def __init__(self, network, allow: Collection[str] = ()):
        super().__init__(network.about, allow)
        network.expect(self.feature.shape, len(self.classes))
        self.network = network

    def probabilities(self, stored):
        """(B, C, T, F) features -> (B, K) array."""
        return _in_range(self.network(stored))


def _in_range(probabilities):
    """The probabilities, once they are known to be some: a damaged or made-up model gives NaN."""
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError(
            "the model gives NaN in place of probabilities; use another, or train again"
        )
    return probabilities


def _windows(path, hop, warn):
    """Cut a file into windows.

    Yields:
        (WindowPrediction without results, waveform (n,)); last of all maybe (WindowPrediction with an error, None).
    """
    try:
        for start, waveform in audio.windows(audio.stream(path, warn, damaged=True), hop):
            start_s = start / audio.SAMPLE_RATE
            end_s = (start + len(waveform)) / audio.SAMPLE_RATE
            yield WindowPrediction(path, start_s, end_s, silent=audio.is_silent(waveform)), waveform
    except audio.AudioError as error:
        yield WindowPrediction(path, error=error), None


def best(folder):
    """The best checkpoint of a run folder.

    Raises:
        ValueError: there is none.
    """
    path = RunFolder(Path(folder)).any_best()
    if path is None:
        raise checkpoint.CheckpointError(
            f"{folder}: no best.*.pt; expected the folder of a finished run "
            "(under the paper's protocol the stage score chooses the epoch)"
        )
    return path


def load(path, device="cpu", backbone_file=None, allow: Collection[str] = ()):
    """A Predictor from a run folder or a checkpoint, or from an exported folder or a file of it.

    Args:
        path: see above; of a run folder its best checkpoint.
        device: where torch computes; an .onnx is run on the CPU.
        backbone_file, allow: see `restore`.

    Raises:
        ValueError: there is none, it cannot be read, or it is not what it says it is.
    """
    path = Path(path)
    if path.is_dir():
        exported = [path / name for name in EXPORTED if (path / name).is_file()]
        path = exported[0] if exported else best(path)
    elif path.suffix not in KINDS:
        found = "another kind of file" if path.exists() else "nothing there"
        raise ValueError(
            f"{path}: {found}, expected a run folder, a checkpoint (.pt), or what src/export.py "
            "wrote; name one of these"
        )
    if path.exists() and not path.is_file():  # opening a pipe would wait for ever
        raise ValueError(f"{path}: a folder, a pipe or a device, expected a file; name another one")
    if path.suffix == ".onnx":
        network = onnx.Graph(path)
        with _naming(path):
            _describe(network.about, allow)
        predictor = GraphPredictor(network, allow)
    else:
        model, about = restore(path, backbone_file, allow)
        predictor = TorchPredictor(model, about, device, allow)
    if path.suffix != ".pt":
        _compare_labels(path.with_name(LABELS), predictor.classes)
    return predictor


def _compare_labels(path, classes):
    """Refuse class names in a labels.txt that are not the model's; it need not be there."""
    if not path.is_file():
        return
    found = atomic.read_text(path).rstrip("\n")
    if found != "\n".join(classes):
        raise safetensors.ReleaseError(
            f"{path}: found {', '.join(found.splitlines())}; "
            f"the model's classes are {', '.join(classes)}, in this order; "
            "put the right one there, or delete it"
        )
