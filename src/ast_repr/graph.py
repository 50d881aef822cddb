"""A model as one ONNX graph: un-normalised features (B, C, T, F) to probabilities (B, K), for any B, in float32.

The metadata hold `about`, a JSON text for each of its keys (classes, threshold, the front end's settings, ...), and the
sha256 of the file as it is with zeros in the place of that number. onnx and onnxruntime are optional (pyproject.toml,
`onnx`): the first is needed to write a graph, the second to check and to run it.
"""

import hashlib
import importlib
import json
import logging
import warnings
from pathlib import Path

import numpy as np
import torch

from . import files

INPUT, OUTPUT = "features", "probabilities"
TOLERANCE = 1e-4  # of a probability, between torch and onnxruntime
BATCHES = (1, 3)  # sizes at which they are compared
UNSEALED = "0" * 64
LEVEL, SPREAD, PADDING = (
    -8.0,
    5.0,
    26,
)  # of the clips that are compared: like log-mels, the last frames being padding


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
    """Write `model`, in eval mode on the CPU, as a graph, once it is found to compute the same under onnxruntime.

    Args:
        path: the file; it stays as it was if anything goes wrong.
        model: (B, C, T, F) -> logits (B, K).
        shape: (C, T, F) of one clip.
        about: plain values to keep with it, "classes" among them.

    Returns:
        The largest difference between probabilities that was found.

    Raises:
        GraphError: packages are missing, the model has no graph, or the graph computes something else.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        _package(name)
    clips = LEVEL + SPREAD * torch.randn(
        max(BATCHES), *shape, generator=torch.Generator().manual_seed(0)
    )
    clips[:, :, -PADDING:] = 0.0
    network = Probabilities(model).eval()
    with files.replacing(path) as partial:
        program = _traced(network, clips)
        for node in program.model.graph.all_nodes():
            node.metadata_props.clear()  # where in whose files each was called
        program.model.metadata_props.update(
            {key: json.dumps(value) for key, value in about.items()} | {"sha256": UNSEALED}
        )
        program.save(partial, external_data=False)
        data = partial.read_bytes()
        partial.write_bytes(data.replace(UNSEALED.encode(), seal(data).encode()))
        graph = Graph(partial)
        with torch.no_grad():
            difference = max(
                np.abs(graph(clips[:size]) - network(clips[:size]).numpy()).max()
                for size in BATCHES
            )
        if not difference <= TOLERANCE:  # NaN is refused too
            raise GraphError(
                f"{path}: not written, its probabilities differ by {difference:.2g} from torch's, expected {TOLERANCE:g} at most"
            )
    return float(difference)


class Graph:
    """A graph that `save` wrote, run by onnxruntime on the CPU.

    Attributes:
        about: the plain values that are kept with it.

    Raises:
        GraphError: onnxruntime is not installed, or the file is missing, damaged or of another origin.
    """

    def __init__(self, path):
        onnxruntime = _package("onnxruntime")
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise GraphError(
                f"{path}: {error.strerror}, expected an exported model; make one by src/export.py --onnx"
            ) from error
        try:
            self.session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
            metadata = dict(self.session.get_modelmeta().custom_metadata_map)
        except Exception as error:  # onnxruntime has a class of its own for each kind of damage
            raise GraphError(
                f"{path}: truncated or not an ONNX graph; fetch or export it again"
            ) from error
        if not {"classes", "sha256"} <= metadata.keys():
            raise GraphError(
                f"{path}: found a graph of another origin, expected what src/export.py --onnx writes"
            )
        expected = metadata.pop("sha256")
        if (found := seal(data.replace(expected.encode(), UNSEALED.encode()))) != expected:
            raise GraphError(
                f"{path}: content has sha256 {found[:12]}..., expected {expected[:12]}...: changed or damaged; fetch or export it again"
            )
        self.about = {key: json.loads(value) for key, value in metadata.items()}

    def __call__(self, features):
        """Tensor (B, C, T, F) float32 -> array (B, K) float32."""
        return self.session.run([OUTPUT], {INPUT: features.numpy()})[0]


def seal(data):
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
            f"this model has no ONNX graph ({type(error).__name__}: {reason}); export it without --onnx"
        ) from error
    finally:
        chatter.setLevel(level)


def _package(name):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise GraphError(
            f"the package {name} is not installed, expected for ONNX; install it by: pip install 'ast_repr[onnx]'"
        ) from error
