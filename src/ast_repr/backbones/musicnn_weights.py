"""Weights of musicnn from the authors' package on the Python package index, without TensorFlow.

The wheel musicnn 0.1.0 (Pons and Serra 2019, ISC licence) carries TensorFlow 1 checkpoints. It is
only read as an archive, never installed.
"""

import ast
import io
import re
import zipfile
from pathlib import Path

import torch

from . import tensorflow_bundle, weights
from .musicnn import FILTERS, Musicnn

MODELS = {
    "musicnn_msd": ("MSD_musicnn", "MSD_LABELS"),
    "musicnn_mtt": ("MTT_musicnn", "MTT_LABELS"),
}
CONVOLUTIONS = [*(f"front.{n}" for n in range(len(FILTERS))), *(f"middle.{n}" for n in range(3))]
NORMS = ["input_norm", *(f"{name}.norm" for name in CONVOLUTIONS), "pool_norm", "dense_norm"]
DENSE = ["dense", "source_head"]
OF_NORM = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def convert_wheel(wheel: Path, name: str, path: Path) -> None:
    """Write the network `name` of the wheel to `path`, in the layout of this project.

    The same wheel gives the same bytes.
    """
    network, labels = from_wheel(wheel.read_bytes(), name)
    weights.save(network, path, labels)


def from_wheel(wheel: bytes, name: str) -> tuple[Musicnn, list[str]]:
    """Build the network `name` with the weights in the wheel.

    Args:
        wheel: the file's content, whose sha256 the caller has verified.
        name: one of MODELS.

    Returns:
        the network, and the names of its tags in order.
    """
    folder, constant = MODELS[name]
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        index = archive.read(f"musicnn/{folder}/.index")
        data = archive.read(f"musicnn/{folder}/.data-00000-of-00001")
        configuration = archive.read("musicnn/configuration.py").decode()
    labels = ast.literal_eval(re.search(rf"^{constant} = (\[.*\])", configuration, re.M).group(1))
    state = convert(tensorflow_bundle.read(index, data))
    mean = state["input_norm.running_mean"].item()
    std = state["input_norm.running_var"].sqrt().item()
    network = Musicnn(mean=mean, std=std, n_source=len(labels))
    network.load_state_dict(state)
    return network, labels


def convert(tensors: dict) -> dict[str, torch.Tensor]:
    """Rename and transpose TensorFlow's tensors to those of `Musicnn`."""
    state = {}
    for number, name in enumerate(NORMS):
        for key, ours in OF_NORM.items():
            state[f"{name}.{ours}"] = torch.from_numpy(
                tensors[f"{_layer('batch_normalization', number)}/{key}"]
            )
    for number, name in enumerate(CONVOLUTIONS):
        layer = _layer("conv2d", number)
        weight = torch.from_numpy(tensors[f"{layer}/kernel"])  # (T, F, in, out)
        if name.startswith("middle"):
            weight = weight[:, :, 0].permute(2, 1, 0)  # (out, F, T): bands are channels here
        else:
            weight = weight.permute(3, 2, 0, 1)
        state[f"{name}.conv.weight"] = weight.contiguous()
        state[f"{name}.conv.bias"] = torch.from_numpy(tensors[f"{layer}/bias"])
    for number, name in enumerate(DENSE):
        layer = _layer("dense", number)
        state[f"{name}.weight"] = torch.from_numpy(tensors[f"{layer}/kernel"]).T.contiguous()
        state[f"{name}.bias"] = torch.from_numpy(tensors[f"{layer}/bias"])
    return state


def _layer(kind: str, number: int) -> str:
    """TensorFlow's name of the layer `number` of a kind."""
    return f"{kind}_{number}" if number else kind
