"""A model as one ONNX graph: un-normalised features (B, C, T, F) to probabilities (B, K), any B.

The metadata hold the model's description, a JSON text for each key (classes, threshold, settings of
the front end, ...), and the file's sha256, computed with zeros in place of that number. The extra
`onnx` is optional: onnx and onnxscript write a graph, onnxruntime checks and runs it.
"""

import importlib
import json
import logging
import os
import warnings
from pathlib import Path

import numpy as np
import torch

from .. import atomic, identity, typecheck
from .description import ExportError, parse

INPUT = "features"
OUTPUT = "probabilities"
TOLERANCE = 1e-4  # of a probability, between PyTorch and onnxruntime
BATCHES = (1, 3)  # batch sizes of the verification
HASH_PLACEHOLDER = "0" * 64
# Where onnxruntime looks for tensors that a graph keeps in other files.
EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path"
# Random features of the verification.
MEAN = -8.0
STD = 5.0
PADDED_FRAMES = 26
QUANTISER_KEY = "onnx.infer"  # of the metadata that onnxruntime's quantiser adds


def save(
    path: Path,
    model: torch.nn.Module,
    shape: tuple[int, int, int],
    about: dict,
    int8: bool = False,
) -> float:
    """Write a graph, verified to give the model's probabilities under onnxruntime.

    Args:
        path: the file, replaced only by a verified graph.
        model: (B, C, T, F) -> logits (B, K), in eval mode on the CPU.
        shape: (C, T, F) of one clip.
        about: plain values to store with it, "classes" among them.
        int8: quantise the linear layers of the verified graph: weights once, to 8-bit integers,
            their inputs in each pass (onnxruntime's dynamic quantisation).

    Returns:
        The largest difference between probabilities in the verification; with `int8`, that of the
        quantised graph, which is not bounded.

    Raises:
        ExportError: a package is missing, the model has no graph, or the graph differs from it.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        _package(name)
    generator = torch.Generator().manual_seed(0)
    features = MEAN + STD * torch.randn(max(BATCHES), *shape, generator=generator)
    features[:, :, -PADDED_FRAMES:] = 0.0
    network = torch.nn.Sequential(model, torch.nn.Sigmoid()).eval()
    program = _trace(network, features)
    difference = _verify(program, features)
    if not difference <= TOLERANCE:  # NaN is refused too
        raise ExportError(
            f"{path}: not written, its probabilities differ by {difference:.2g} from PyTorch's, "
            f"expected {TOLERANCE:g} at most"
        )
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # source files and lines of this machine
    for key, value in about.items():
        program.model.metadata_props[key] = json.dumps(value)
    program.model.metadata_props["sha256"] = HASH_PLACEHOLDER
    if int8:
        program.model.metadata_props["precision"] = json.dumps("int8")
    with atomic.replacing(path) as partial:
        program.save(partial, external_data=False)
        if int8:
            _quantise(partial)
            difference = _difference(partial, network, features)
            if np.isnan(difference):
                raise ExportError("the graph in 8-bit integers gives NaN; export without --int8")
        data = partial.read_bytes()
        sha256 = identity.of_bytes(data)
        partial.write_bytes(data.replace(HASH_PLACEHOLDER.encode(), sha256.encode()))
    return difference


class Graph:
    """A graph that `save` wrote, run by onnxruntime on the CPU.

    Nothing but this one file is read: no tensors from other files, no libraries of operators.

    Attributes:
        about: the plain values that are stored with it.

    Raises:
        ExportError: onnxruntime is not installed, or the file is damaged or not written by `save`.
        OSError: it cannot be read.
    """

    def __init__(self, path: str | Path):
        onnxruntime = _package("onnxruntime")
        self.path = path
        data = Path(path).read_bytes()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # errors are reported here, in one line
        options.add_session_config_entry(EXTERNAL_FOLDER, os.devnull)
        try:
            self.session = onnxruntime.InferenceSession(data, options, ["CPUExecutionProvider"])
            metadata = dict(self.session.get_modelmeta().custom_metadata_map)
        except Exception as error:  # onnxruntime has a class for each kind of damage
            raise ExportError(
                f"{path}: truncated or not an ONNX graph; fetch or export it again"
            ) from error
        expected = metadata.pop("sha256", "")
        if "classes" not in metadata or len(expected) != len(HASH_PLACEHOLDER):
            raise ExportError(
                f"{path}: a graph of another origin; make one by `ast-repr export --onnx`"
            )
        sha256 = identity.of_bytes(data.replace(expected.encode(), HASH_PLACEHOLDER.encode()))
        self.about = parse(path, metadata, sha256, expected)

    def expect(self, shape: tuple[int, int, int], classes: int) -> None:
        """Refuse a graph for features of another shape (C, T, F) or number of classes."""
        nodes = [*self.session.get_inputs(), *self.session.get_outputs()]
        signature = [(node.name, node.type, node.shape[1:]) for node in nodes]
        kind = "tensor(float)"
        if signature != [(INPUT, kind, list(shape)), (OUTPUT, kind, [classes])]:
            raise ExportError(
                f"{self.path}: the graph contradicts its metadata: found "
                f"{typecheck.shown(signature)}, expected {list(shape)} features in and {classes} "
                "probabilities out; export it again"
            )

    def __call__(self, features: torch.Tensor) -> np.ndarray:
        """(B, C, T, F) float32 -> (B, K) float32."""
        try:
            return self.session.run([OUTPUT], {INPUT: features.numpy()})[0]
        except Exception as error:  # as above
            raise ExportError(
                f"{self.path}: onnxruntime cannot run it ({typecheck.shown(str(error))}); "
                "export it again"
            ) from error


def _verify(program, features):
    """Compute the largest difference between onnxruntime and PyTorch over several batch sizes."""
    from torch.onnx import verification

    differences = []
    for size in BATCHES:
        for info in verification.verify_onnx_program(program, (features[:size],)):
            differences.append(info.max_abs_diff)
    return max(differences)


def _quantise(path):
    """Quantise the linear layers of a graph in place."""
    import onnx
    from onnxruntime import quantization

    graph = onnx.load(path)
    # onnxruntime 1.30 transposes weights without changing the shapes recorded for them.
    del graph.graph.value_info[:]
    logging.disable(logging.WARNING)  # it advises to optimise the graph before
    try:
        quantization.quantize_dynamic(graph, path, ["MatMul", "Gemm"])
    finally:
        logging.disable(logging.NOTSET)
    graph = onnx.load(path)
    for entry in list(graph.metadata_props):
        if entry.key == QUANTISER_KEY:
            graph.metadata_props.remove(entry)
    onnx.save(graph, path)


@torch.no_grad()
def _difference(path, network, features):
    """Compute the largest difference between a graph's outputs and those of its network."""
    session = _package("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
    (outputs,) = session.run([OUTPUT], {INPUT: features.numpy()})
    return float(np.abs(outputs - network(features).numpy()).max())


def _trace(network, features):
    """Export a network as an ONNX program for batches of any size."""
    chatter = logging.getLogger("onnxscript")
    level = chatter.level
    chatter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            batch = ({0: torch.export.Dim("batch")},)
            # Not strict, len(x) would be traced as a constant, and with it the batch size.
            traced = torch.export.export(network, (features,), dynamic_shapes=batch, strict=True)
            return torch.onnx.export(
                traced, dynamo=True, input_names=[INPUT], output_names=[OUTPUT], verbose=False
            )
    except RuntimeError as error:  # PyTorch's errors of both steps
        reason = str(error).strip().partition("\n")[0]
        raise ExportError(
            f"this model has no ONNX graph ({type(error).__name__}: {reason}); "
            "export it without --onnx"
        ) from error
    finally:
        chatter.setLevel(level)


def _package(name):
    try:
        package = importlib.import_module(name)
    except ImportError as error:
        raise ExportError(
            f"the package {name} is not installed, expected for ONNX; install the extra `onnx`, "
            "in a copy of the repository: pip install '.[onnx]'"
        ) from error
    if name == "onnxruntime":
        package.disable_telemetry_events()  # nothing leaves the machine unasked
    return package
