"""A model as one ONNX graph: un-normalised features (B, C, T, F) to probabilities (B, K), any B.

The metadata hold `about`, a JSON text for each of its keys (classes, threshold, the front end's
settings, ...), and the sha256 of the file as it is with zeros in the place of that number. onnx and
onnxruntime are optional (pyproject.toml, `onnx`): the first is needed to write a graph, the second
to check and to run it.
"""

import hashlib
import importlib
import json
import logging
import os
import warnings
from pathlib import Path

import numpy as np
import torch

from .. import atomic, model_spec, typecheck

INPUT, OUTPUT = "features", "probabilities"
TOLERANCE = 1e-4  # of a probability, between torch and onnxruntime
BATCHES = (1, 3)  # sizes at which they are compared
HASH_PLACEHOLDER = "0" * 64
# Where onnxruntime looks for tensors that a graph keeps in other files.
ELSEWHERE = "session.model_external_initializers_file_folder_path"
# Of the clips that are compared: like log-mels, the last frames being padding.
LEVEL, SPREAD, PADDING = -8.0, 5.0, 26


class GraphError(ValueError):
    """A graph that cannot be written, read or run; the message says what to do."""


class Probabilities(torch.nn.Module):
    """A classifier with the sigmoid at its end."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, features):
        """(B, C, T, F) -> (B, K)."""
        return self.model(features).sigmoid()


def save(path, model, shape, about):
    """Write `model`, in eval mode on the CPU, as a graph that onnxruntime computes alike.

    Args:
        path: the file; it stays as it was if anything goes wrong.
        model: (B, C, T, F) -> logits (B, K).
        shape: (C, T, F) of one clip.
        about: plain values to keep with it, "classes" among them.

    Returns:
        The largest difference between probabilities that was found.

    Raises:
        GraphError: packages are missing, the model has no graph, or the graph computes something
            else.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        _package(name)
    clips = LEVEL + SPREAD * torch.randn(
        max(BATCHES), *shape, generator=torch.Generator().manual_seed(0)
    )
    clips[:, :, -PADDING:] = 0.0
    network = Probabilities(model).eval()
    with atomic.replacing(path) as partial:
        program = _traced(network, clips)
        for node in program.model.graph.all_nodes():
            node.metadata_props.clear()  # where in whose files each was called
        program.model.metadata_props.update(
            {key: json.dumps(value) for key, value in about.items()} | {"sha256": HASH_PLACEHOLDER}
        )
        program.save(partial, external_data=False)
        data = partial.read_bytes()
        partial.write_bytes(data.replace(HASH_PLACEHOLDER.encode(), content_hash(data).encode()))
        graph = Graph(partial)
        with torch.no_grad():
            difference = max(
                np.abs(graph(clips[:size]) - network(clips[:size]).numpy()).max()
                for size in BATCHES
            )
        if not difference <= TOLERANCE:  # NaN is refused too
            raise GraphError(
                f"{path}: not written, its probabilities differ by {difference:.2g} from torch's, "
                f"expected {TOLERANCE:g} at most"
            )
    return float(difference)


class Graph:
    """A graph that `save` wrote, run by onnxruntime on the CPU.

    It reads nothing but that one file: no other file's tensors and no library of operators.

    Attributes:
        about: the plain values that are kept with it.

    Raises:
        GraphError: onnxruntime is not installed, or the file is missing, damaged or of another
            origin.
    """

    def __init__(self, path):
        onnxruntime = _package("onnxruntime")
        self.path = path
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise GraphError(
                f"{path}: {error.strerror}, expected an exported model; "
                "make one by src/export.py --onnx"
            ) from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what is wrong is said here, in one line
        options.add_session_config_entry(ELSEWHERE, os.devnull)
        try:
            self.session = onnxruntime.InferenceSession(data, options, ["CPUExecutionProvider"])
            metadata = dict(self.session.get_modelmeta().custom_metadata_map)
        except Exception as error:  # onnxruntime has a class of its own for each kind of damage
            raise GraphError(
                f"{path}: truncated or not an ONNX graph; fetch or export it again"
            ) from error
        expected = metadata.pop("sha256", "")
        if "classes" not in metadata or len(expected) != len(HASH_PLACEHOLDER):
            raise GraphError(
                f"{path}: found a graph of another origin, "
                "expected what src/export.py --onnx writes"
            )
        found = content_hash(data.replace(expected.encode(), HASH_PLACEHOLDER.encode()))
        if found != expected:
            raise GraphError(
                f"{path}: content has sha256 {found[:12]}..., expected {expected[:12]}...: "
                "changed or damaged; fetch or export it again"
            )
        try:
            self.about = {key: model_spec.parse_json(text) for key, text in metadata.items()}
        except model_spec.SpecError as error:
            raise GraphError(
                f"{path}: its metadata are not readable ({error}); fetch or export it again"
            ) from error

    def expect(self, shape, classes):
        """Refuse a graph for other features than (C, T, F) `shape`, or another number of classes.

        Raises:
            GraphError: it is one.
        """
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        found = [(node.name, node.type, node.shape[1:]) for node in (*inputs, *outputs)]
        kind = "tensor(float)"
        if found != [(INPUT, kind, list(shape)), (OUTPUT, kind, [classes])]:
            raise GraphError(
                f"{self.path}: its graph is not what its metadata say: found "
                f"{typecheck.shown(found)}, expected {list(shape)} features in and {classes} "
                "probabilities out; export it again"
            )

    def __call__(self, features):
        """Tensor (B, C, T, F) float32 -> array (B, K) float32."""
        try:
            return self.session.run([OUTPUT], {INPUT: features.numpy()})[0]
        except Exception as error:  # as above
            raise GraphError(
                f"{self.path}: onnxruntime cannot run it ({typecheck.shown(str(error))}); "
                "export it again"
            ) from error


def content_hash(data):
    """sha256 of a file with zeros in the place of its number."""
    return hashlib.sha256(data).hexdigest()


def _traced(network, clips):
    """The ONNX program of a network, the size of whose batch stays open."""
    chatter = logging.getLogger("onnxscript")
    level = chatter.level
    chatter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            batch = {INPUT: {0: torch.export.Dim("batch")}}
            # Strict: the other way takes len(x) for a constant, and with it the size of the batch.
            traced = torch.export.export(network, (clips,), dynamic_shapes=batch, strict=True)
            return torch.onnx.export(
                traced, dynamo=True, input_names=[INPUT], output_names=[OUTPUT], verbose=False
            )
    except RuntimeError as error:  # torch's errors of both steps
        reason = str(error).strip().partition("\n")[0]
        raise GraphError(
            f"this model has no ONNX graph ({type(error).__name__}: {reason}); "
            "export it without --onnx"
        ) from error
    finally:
        chatter.setLevel(level)


def _package(name):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise GraphError(
            f"the package {name} is not installed, expected for ONNX; "
            "install it by: pip install 'ast_repr[onnx]'"
        ) from error
