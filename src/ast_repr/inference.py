"""Trained models as functions of waveforms and files.

    model = inference.load("exp/synthetic/ast_unet/seed0")  # no path: the shipped model
    probabilities = model(waveforms)  # (B, N) at 16 kHz -> (B, K), columns as in model.classes
    for song in model.predict(["song.mp3"]):
        print(song.path, song.probabilities)

A model file may come from anybody: its description is checked before anything is built, and a class
outside the package is built only if the caller allows it by name.
"""

import itertools
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy.special import expit, logit

from . import (
    atomic,
    audio,
    checkpoint,
    devices,
    features,
    model_spec,
    pretrained,
    processes,
    registry,
    typecheck,
)
from .backbones import weights
from .classifier import Reprogrammed, build_model
from .export import onnx, safetensors
from .export.description import ExportError
from .model_spec import ModelSpec, SpecError
from .run_folder import RunFolder

EXPORTED = ("model.safetensors", "model.onnx")  # of an exported folder, the first that exists
SUFFIXES = (".pt", ".safetensors", ".onnx")
LABELS = "labels.txt"  # beside an exported model: one class per line
MAX_VALUES = 10**9  # in all tensors of a model; AST-base has 87 million
EPSILON = 1e-6  # least distance of a probability from 0 and 1 before its logit is taken


def mean_logit(probabilities: np.ndarray, axis: int = 0) -> np.ndarray:
    """Average the logits of probabilities along an axis; return the probability of the mean."""
    clipped = np.clip(probabilities, EPSILON, 1 - EPSILON)
    return expit(np.mean(logit(clipped), axis=axis))


def normalised_sum(probabilities: np.ndarray, axis: int = 0) -> np.ndarray:
    """Add up probabilities (..., K) along an axis and divide by the largest class, which gets 1.

    The aggregation of Han, Kim and Lee (2016). In silence, where all are 0, they stay 0.

    >>> normalised_sum(np.array([[0.2, 0.5], [0.1, 0.1]])).round(6).tolist()
    [0.5, 1.0]
    """
    total = np.sum(probabilities, axis=axis)
    largest = total.max(axis=-1, keepdims=True)
    return total / np.where(largest > 0, largest, 1.0)


AGGREGATES = {  # of the windows of a file
    "mean": np.mean,
    "max": np.max,
    "mean_logit": mean_logit,
    "normalised_sum": normalised_sum,
}


@dataclass(frozen=True)
class WindowPrediction:
    """Prediction for a window of a file, or the error that ends it."""

    index: int  # of the file
    path: str | Path
    start_s: float = 0.0
    end_s: float = 0.0
    feature: np.ndarray | None = None  # (C, T, F), un-normalised
    probabilities: np.ndarray | None = None  # (K,); all are 0 in silence
    attention: np.ndarray | None = None  # (K, S), weights of the window's segments
    silent: bool = False
    error: ValueError | None = None


@dataclass(frozen=True)
class FilePrediction:
    """Prediction for a file of any length, or the error, in one line, if it cannot be read."""

    path: str
    seconds: float = 0.0
    times: np.ndarray | None = None  # (W, 2), start and end of each window in seconds
    timeline: np.ndarray | None = None  # (W, K), probabilities in each window
    probabilities: np.ndarray | None = None  # (K,), aggregated over the windows
    silent: np.ndarray | None = None  # (W,) bool
    attention: np.ndarray | None = None  # (W, K, S), weights of segments; None without attention
    segments: np.ndarray | None = None  # (S, 2), start and end in seconds from a window's start
    error: str | None = None

    @property
    def is_silent(self) -> bool:
        """Whether all windows are silent."""
        return bool(self.silent.all())


class Predictor:
    """A trained model with the feature that it was trained on.

    Attributes:
        about: the description stored with the model; `spec`: its checked part.
        path: the file that `load` has read.
        precision: "float32" or "bfloat16", in which everything before the head is computed, or
            "int8", for the linear layers of such a graph.
        classes: names of the K classes, in the order of the outputs.
        threshold: the probability from which an instrument counts as present.
        aggregate: how the windows of a file are combined, see AGGREGATES.
        feature: the module that computes the model's input.
        window: length, hop and sampling rate of the waveforms that it is computed from.
        segments: (S, 2), start and end in seconds of the parts of a window that the model's
            attention weights; None without attention.

    Raises:
        ValueError: the description is invalid, or its feature not allowed or not computed from
            audio.
    """

    def __init__(self, about: dict, allow: Collection[str] = ()):
        self.about = about
        self.path: Path | None = None
        self.precision = "float32"
        self.spec = ModelSpec.from_dict(about)
        self.classes = self.spec.classes
        self.threshold = self.spec.threshold
        self.aggregate = self.spec.aggregate
        self.feature = _build_feature(self.spec, allow)
        self.window = features.window(self.feature)
        self.segments: np.ndarray | None = None
        if hasattr(self.feature, "read"):
            raise ValueError(
                f"model trained on {self.spec.feature['name']}, which comes with its corpus, "
                "expected a model that takes audio; take a model trained on logmel"
            )

    def __call__(self, waveforms: np.ndarray) -> np.ndarray:
        """Compute probabilities of (B, N) waveforms of any length, float32 at 16 kHz: (B, K).

        The rate is `window.sample_rate` if that is another. More than `window.seconds`, ten for
        most models, are cut into windows, the last of which ends with the waveform, and combined
        as `aggregate` says; less is padded with zeros. In silence all probabilities are 0.

        Raises:
            ValueError: the waveforms are not two-dimensional, or empty.
        """
        combine = AGGREGATES[self.aggregate]
        return self._over_windows(waveforms, lambda window: self._predict(window)[1], combine)

    def predict(
        self,
        paths: str | Path | Iterable[str | Path],
        hop_s: float | None = None,
        aggregate: str | None = None,
        batch_size: int = 16,
        on_window: Callable[[WindowPrediction], None] | None = None,
        warn: Callable[[str], None] = warnings.warn,
        nj: int = 1,
    ) -> Iterator[FilePrediction]:
        """Predict audio files, in order; a file that cannot be read gets an `error`.

        Args:
            paths: the files, or a single one.
            hop_s: seconds from one window to the next; default: the model's.
            aggregate: one of AGGREGATES, of the windows of a file; default: the model's.
            batch_size: windows per forward pass; batches span files.
            on_window: called with each window, e.g. to show progress.
            warn: called with a line about a file that is damaged or exceeds +-1.
            nj: processes that decode the files ahead; 1: this one decodes them.

        Raises:
            ValueError: `aggregate` is unknown, or a number is out of range.
            RuntimeError: a process was killed.
        """
        if aggregate is None:
            aggregate = self.aggregate
        if aggregate not in AGGREGATES:
            raise ValueError(registry.unknown("aggregate", aggregate, AGGREGATES))
        windows = self.predict_windows(paths, hop_s, batch_size, warn, nj)
        groups = itertools.groupby(windows, key=lambda window: window.index)
        function = AGGREGATES[aggregate]
        return (_aggregate(group, function, on_window, self.segments) for _, group in groups)

    def predict_windows(
        self,
        paths: str | Path | Iterable[str | Path],
        hop_s: float | None = None,
        batch_size: int = 16,
        warn: Callable[[str], None] = warnings.warn,
        nj: int = 1,
    ) -> Iterator[WindowPrediction]:
        """Predict files window by window; see `predict`.

        Memory does not grow with the length or number of files, and results do not depend on the
        batch size or other files. A window with an error is the last of its file.
        """
        if hop_s is None:
            hop_s = self.window.hop_s
        hop = round(hop_s * self.window.sample_rate)
        if hop < 1 or batch_size < 1 or nj < 1:
            raise ValueError(
                f"hop_s {hop_s}, batch_size {batch_size}, nj {nj}; "
                "expected a sample or more, and 1 or more"
            )
        if isinstance(paths, (str, Path)):
            paths = [paths]
        return self._predict_batches(_cut(list(paths), self.window, hop, warn, nj), batch_size)

    def _predict_batches(self, windows, batch_size):
        """Predict the (WindowPrediction, waveform) pairs of `_cut`."""
        while batch := list(itertools.islice(windows, batch_size)):
            waveforms = []
            for _, waveform in batch:
                if waveform is not None:
                    waveforms.append(audio.fit(waveform, self.window.samples))
            if waveforms:
                results = zip(*self._predict(np.stack(waveforms)), strict=True)
            for window, waveform in batch:
                if waveform is not None:
                    feature, probabilities, attention = next(results)
                    window = replace(
                        window, feature=feature, probabilities=probabilities, attention=attention
                    )
                yield window

    def _outputs(self, feature):
        """Compute probabilities and attention of (B, C, T, F), a float32 tensor on the CPU.

        Returns:
            arrays (B, K) and (B, K, S); the second is a list of None without attention.
        """
        raise NotImplementedError

    def _predict(self, waveforms):
        """(B, n), a window at most -> (feature (B, C, T, F), probabilities (B, K), attention)."""
        feature = self._compute_feature(waveforms)
        probabilities, attention = self._outputs(feature)
        # A damaged or made-up model gives NaN.
        if not ((probabilities >= 0) & (probabilities <= 1)).all():
            raise ValueError(
                "the model gives NaN in place of probabilities; use another, or train again"
            )
        probabilities[[audio.is_silent(waveform) for waveform in waveforms]] = 0.0
        return feature.numpy(), probabilities, attention

    def _compute_feature(self, waveforms):
        padding = self.window.samples - waveforms.shape[1]
        padded = torch.from_numpy(np.pad(waveforms, [(0, 0), (0, padding)]))
        return self.feature(padded).half().float()  # the precision of the store, as in training

    def _over_windows(self, waveforms, function, combine=np.mean):
        """Combine the values of `function` on the windows of (B, N) waveforms."""
        hop = round(self.window.hop_s * self.window.sample_rate)
        windows = audio.windows([_check_waveforms(waveforms)], hop, self.window.samples)
        return combine([function(window) for _, window in windows], axis=0)


class TorchPredictor(Predictor):
    """A Predictor whose model runs in PyTorch."""

    def __init__(
        self,
        model: Reprogrammed,
        about: dict,
        device: str | torch.device = "cpu",
        allow: Collection[str] = (),
        precision: str = "float32",
    ):
        super().__init__(about, allow)
        self.device = torch.device(device)
        self.model = model.to(device)
        self.model.bf16 = devices.uses_bf16(self.device, precision)
        if self.model.bf16:
            self.precision = "bfloat16"
        if self.model.segments and hasattr(self.feature, "frames_per_second"):
            self.segments = np.array(self.model.segments) / self.feature.frames_per_second

    def embed(self, waveforms: np.ndarray) -> np.ndarray:
        """Compute embeddings of (B, N) waveforms: (B, D), averaged over windows."""
        return self._over_windows(
            waveforms, lambda window: self._forward(self._compute_feature(window))[0]
        )

    def reprogram(self, waveforms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute the normalised feature before and after the reprogrammer: (B, C, T, F) each.

        Raises:
            ValueError: the waveforms (B, N) are not two-dimensional, empty, or longer than a
                window.
        """
        waveforms = _check_waveforms(waveforms)
        samples = waveforms.shape[1]
        if samples > self.window.samples:
            raise ValueError(f"found {samples} samples, expected {self.window.samples} at most")
        return self.reprogram_feature(self._compute_feature(waveforms))

    @torch.no_grad()
    def reprogram_feature(self, feature: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Normalise and reprogram an un-normalised feature (B, C, T, F)."""
        before = self.model.normalise(feature.to(self.device))
        after = self.model.reprogrammer(before)
        return before.cpu().numpy(), after.cpu().numpy()

    def _outputs(self, feature):
        _, probabilities, attention = self._forward(feature)
        return probabilities, attention

    @torch.no_grad()
    def _forward(self, feature):
        """(B, C, T, F) -> embedding (B, D), and probabilities and attention, see `_outputs`."""
        # With TensorFloat-32, results would depend on the batch size.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            output = self.model.encode(feature.to(self.device))
            probabilities = self.model.head(output).sigmoid()
            attention = [None] * len(feature)
            if self.segments is not None:
                attention = self.model.attention(output).cpu().numpy()
        return output.embedding.cpu().numpy(), probabilities.cpu().numpy(), attention


class GraphPredictor(Predictor):
    """A Predictor whose model is an ONNX graph; it has neither `embed` nor `reprogram`."""

    def __init__(self, graph: onnx.Graph, allow: Collection[str] = ()):
        super().__init__(graph.about, allow)
        graph.expect(self.feature.shape, len(self.classes))
        self.graph = graph
        self.precision = model_spec.lookup({"precision": "float32"} | graph.about, "precision", str)

    def _outputs(self, feature):
        probabilities = np.array(self.graph(feature))
        return probabilities, [None] * len(probabilities)


def load(
    path: str | Path | None = None,
    device: str | torch.device = "cpu",
    backbone_file: str | Path | None = None,
    allow: Collection[str] = (),
    precision: str = "float32",
) -> Predictor:
    """Load a trained model.

    Args:
        path: a run folder (its best checkpoint is taken), a checkpoint, a folder that
            `ast-repr export` wrote, a file in it, or the name of a shipped model, whose backbone is
            downloaded if need be; None: the default one. The threshold and the aggregate are those
            stored in the model, or chosen in scoring the checkpoint.
        device: where PyTorch computes; an ONNX graph runs on the CPU.
        backbone_file, allow: see `restore`.
        precision: "float32", or "auto" for bfloat16 if the device computes in it; an ONNX graph
            computes as it was exported.

    Raises:
        ValueError: the model is missing, cannot be read, or differs from its description.
        RuntimeError: the backbone cannot be downloaded.
        OSError: a run folder has no best checkpoint.
    """
    if path is None or (str(path) in pretrained.MODELS and not Path(path).exists()):
        name = str(path or pretrained.DEFAULT_MODEL)
        pretrained.find(pretrained.MODELS[name]).fetch()
        path = pretrained.shipped_model(name)
    path = _find_model(Path(path))
    if path.suffix == ".onnx":
        graph = onnx.Graph(path)
        with _naming(path):
            _build_feature(ModelSpec.from_dict(graph.about), allow)
        predictor = GraphPredictor(graph, allow)
    else:
        model, about = restore(path, backbone_file, allow)
        if path.suffix == ".pt":
            about = about | RunFolder(path.parent).decision(path)
        predictor = TorchPredictor(model, about, device, allow, precision)
    if path.suffix != ".pt":
        _check_labels(path.with_name(LABELS), predictor.classes)
    predictor.path = path
    return predictor


def restore(
    path: str | Path, backbone_file: str | Path | None = None, allow: Collection[str] = ()
) -> tuple[Reprogrammed, dict]:
    """Rebuild the classifier of a checkpoint or an exported file, in eval mode.

    Args:
        path: a checkpoint of the trainer, or a .safetensors of `ast-repr export`.
        backbone_file: the backbone's weights, if the file does not hold them; default: the file
            used in training, or one beside the exported file, or the catalogue's.
        allow: names of classes outside the package that the model may be built from, such as
            "mine.Gain". Their modules are imported, which runs code.

    Returns:
        (model, the description stored with it).

    Raises:
        ValueError: the file or the weights cannot be read, the file names a class that is not
            allowed, or the backbone is not the one of the training.
    """
    path = Path(path)
    state = safetensors.load(path) if path.suffix == ".safetensors" else checkpoint.load(path)
    with _naming(path):
        about = model_spec.lookup(state, "about", dict)
        learned = model_spec.lookup(state, "learned", dict)
        spec = ModelSpec.from_dict(about)
        _build_feature(spec, allow)
        if not all(isinstance(name, str) and _is_plain(learned[name]) for name in learned):
            raise SpecError("found something other than plain tensors under 'learned'")
        merged = any(name.startswith("backbone.") for name in learned)
        _rehearse(spec, learned, merged, allow)
    file = None
    if spec.backbone.file is not None and not merged:
        file = str(backbone_file or _find_backbone(path, spec.backbone))
    model = build_model(spec.classes, **spec.build(file), allow=allow)
    with _naming(path):
        _load_tensors(model, learned, merged)
    if not spec.backbone.finetune:
        _check_backbone(model, spec, file, path)
    return model.eval(), about


def _find_model(path):
    """Find the model file that a path given to `load` stands for."""
    if path.is_dir():
        exported = [path / name for name in EXPORTED if (path / name).is_file()]
        path = exported[0] if exported else RunFolder(path).best_checkpoint()
    elif path.suffix not in SUFFIXES:
        found = "another kind of file" if path.exists() else "nothing there"
        raise ValueError(
            f"{path}: {found}, expected a run folder, a checkpoint (.pt), or an exported model; "
            "name one of these"
        )
    if path.is_file():
        weights.refuse_pointer(path)
    elif path.exists():  # opening a pipe would wait for ever
        raise ValueError(f"{path}: a pipe or a device, expected a file; name another")
    elif path.suffix != ".pt":
        raise ExportError(
            f"{path}: no such file, expected an exported model; make one by `ast-repr export`"
        )
    return path


@contextmanager
def _naming(path):
    """Name the file in errors about the model in it."""
    try:
        yield
    except registry.NotAllowedError as error:
        raise registry.NotAllowedError(f"{path}: {error}") from error
    except (ValueError, RuntimeError) as error:  # RuntimeError: sizes and tensors torch refuses
        raise checkpoint.CheckpointError(
            f"{path}: not a trained model of this project, or of another version ({error}); "
            "use the version that wrote it, or train or export it again"
        ) from error


def _build_feature(spec, allow):
    """Build the feature of a model, and refuse one that differs from the model's."""
    feature = features.build(**registry.resolve("feature", spec.feature, allow))
    frames = spec.backbone.options["frames"]
    mels = spec.backbone.options["mels"]
    if (frames, mels) != (feature.frames, feature.bins):
        raise SpecError(
            f"found a network for {frames} frames of {mels} bands under a feature of "
            f"{feature.frames} frames of {feature.bins}"
        )
    settings = feature.spec()
    exported = settings if spec.feature_spec is None else spec.feature_spec
    for key in {**settings, **exported}:
        if exported.get(key) != settings.get(key):
            raise SpecError(
                f"found the front end's {key} {typecheck.shown(exported.get(key))}, "
                f"expected {settings.get(key)!r}"
            )
    return feature


def _is_plain(value):
    return (
        isinstance(value, torch.Tensor)
        and value.layout is torch.strided
        and not (value.is_quantized or value.is_complex())
    )


def _rehearse(spec, learned, merged, allow):
    """Build the model on the meta device, and refuse one that is too large or has other tensors.

    Classes from outside may need real tensors, and are trusted: with them nothing is rehearsed.
    """
    for kind, section in spec.sections().items():
        registry.resolve(kind, section, allow)
    if registry.outside(spec.sections()):
        return
    with torch.device("meta"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*meta parameter")  # nothing is copied there
        model = build_model(spec.classes, **spec.build(None), allow=allow)
        count = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
        if count > MAX_VALUES:
            raise SpecError(
                f"found {count:,} values in its tensors, expected {MAX_VALUES:,} at most"
            )
        _load_tensors(model, learned, merged)


def _load_tensors(model, learned, merged):
    if merged:
        model.load_state_dict(learned)
    else:
        model.load_trainable_state_dict(learned)


def _find_backbone(path, backbone):
    """Find the file of a backbone's weights.

    A checkpoint holds its path in training; an exported file holds a plain name, beside itself.
    """
    file = path.parent / backbone.file
    if path.suffix != ".pt" and Path(backbone.file).name != backbone.file:
        raise checkpoint.CheckpointError(
            f"{path}: names {backbone.file!r} as its backbone, expected a file beside it; "
            "pass the right one (--backbone-file)"
        )
    places = [file]
    with suppress(OSError, ValueError):  # no catalogue, or the backbone is not in it
        places.append(pretrained.find(backbone.source).path)
    for place in places:
        if place.is_file():
            return place
    raise weights.WeightsError(
        f"{path}: no weights of the backbone {backbone.source}, expected at "
        f"{' or '.join(map(str, places))}; pass their file (--backbone-file), or put it there"
    )


def _check_backbone(model, spec, file, path):
    """Refuse frozen tensors other than those of the training."""
    sha256 = weights.fingerprint(model.backbone)
    if sha256 == spec.backbone_sha256:
        return
    remedy = "pass the right file"
    if file is None:
        remedy = "random weights are drawn otherwise here; export the run with --merge"
    raise weights.WeightsError(
        f"{file or path}: the backbone's tensors have sha256 {sha256[:12]}..., the model "
        f"was trained on {spec.backbone_sha256[:12]}...; {remedy}"
    )


def _check_labels(path, classes):
    """Refuse a labels.txt with other names than the model's; it need not exist."""
    if not path.is_file():
        return
    names = atomic.read_text(path).rstrip("\n").split("\n")
    if names != classes:
        raise ExportError(
            f"{path}: found {', '.join(names)}; the model's classes are {', '.join(classes)}, "
            "in this order; put the right file there, or delete it"
        )


def _check_waveforms(waveforms):
    waveforms = np.asarray(waveforms, np.float32)
    if waveforms.ndim != 2 or not waveforms.size:
        raise ValueError(
            f"expected waveforms of shape (B, N) with at least one sample, found {waveforms.shape}"
        )
    return waveforms


def _cut(paths, size, hop, warn, nj):
    """Cut files into windows of `size`, an audio.Window, `hop` samples apart, in `nj` processes.

    Yields:
        (WindowPrediction without results, waveform (n,)), or, as the last of a file that cannot be
        read, (WindowPrediction with an error, None).
    """
    cut_file = partial(audio.file_windows, window=size, hop=hop)
    for index, part in processes.generate(cut_file, paths, nj):
        for line in part.warnings:
            warn(line)
        if part.error is None:
            silent = audio.is_silent(part.waveform)
            span = (part.start_s, part.end_s)
            yield WindowPrediction(index, paths[index], *span, silent=silent), part.waveform
        else:
            yield WindowPrediction(index, paths[index], error=part.error), None


def _aggregate(windows, function, on_window, segments):
    """Combine the windows of one file into a FilePrediction."""
    times = []
    timeline = []
    silent = []
    attention = []
    for window in windows:
        if window.error is not None:
            return FilePrediction(str(window.path), error=" ".join(str(window.error).split()))
        if on_window is not None:
            on_window(window)
        times.append((window.start_s, window.end_s))
        timeline.append(window.probabilities)
        silent.append(window.silent)
        attention.append(window.attention)
    return FilePrediction(
        path=str(window.path),
        seconds=window.end_s,
        times=np.array(times),
        timeline=np.array(timeline),
        probabilities=function(timeline, axis=0),
        silent=np.array(silent),
        attention=None if segments is None else np.array(attention),
        segments=segments,
    )
