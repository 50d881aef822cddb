"""Weights of a backbone from a file, loaded strictly and without running code from it.

Layouts of published files are read, and one, of any backbone, is also written:
    author        the AST authors' `.pth`: `module.v.blocks.N.attn.qkv.*`, `module.mlp_head.*`
    passt         the PaSST authors' `.pt`: `blocks.N.attn.qkv.*`, `time_new_pos_embed`
    hub           the hub's safetensors: `encoder.layer.N.attention.attention.query.*`,
    transformers  transformers >= 5 in memory: `layers.N.attention.q_proj.*`,
                  both below `audio_spectrogram_transformer.`
    panns         PANNs' `.pth` of CNN14: `conv_blockN.*`, `fc_audioset.*`
    torchvggish   its `.pth` of VGGish: `features.N.*`, `embeddings.N.*`
    ast_repr      this project's names, with the dims in the safetensors metadata (`save`)

The tensors may be part of a training checkpoint, {"state_dict": ...} or {"model": ...}, and their
names may begin with "module.", as with nn.DataParallel.

Position embeddings for another number of frames are cropped or interpolated in time (Gong et al.
2021, section 2.2), those for another stride interpolated in time and frequency. The network of
PaSST (Koutini et al. 2022) is AST's: the position embedding of its patches is the sum of one over
time and one over frequency, and its second head is never computed.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save as serialise
from timm.layers import resample_abs_pos_embed
from torch import nn
from torch.nn import functional

from .. import atomic, typecheck
from ..checkpoint import refuse_compressed
from . import cnn14
from .audio_transformer import AudioTransformer, patch_grid

Tensors = dict[str, torch.Tensor]

HF = r"audio_spectrogram_transformer\."
LAYER = HF + r"(?:encoder\.layer|layers)\.(\d+)\."
RENAMES = [  # (a layout's name, ours); the first that matches is applied
    (r"(?:v\.)?(cls_token|dist_token|pos_embed|norm\..+|blocks\..+)", r"\1"),
    (r"(?:v\.)?patch_embed\.proj\.(.+)", r"patch_embed.\1"),
    (r"(?:mlp_)?head\.([01]\..+)", r"source_head.\1"),
    (HF + r"embeddings\.cls_token", "cls_token"),
    (HF + r"embeddings\.distillation_token", "dist_token"),
    (HF + r"embeddings\.position_embeddings", "pos_embed"),
    (HF + r"embeddings\.patch_embeddings\.projection\.(.+)", r"patch_embed.\1"),
    (HF + r"layernorm\.(.+)", r"norm.\1"),
    (LAYER + r"layernorm_before\.(.+)", r"blocks.\1.norm1.\2"),
    (LAYER + r"layernorm_after\.(.+)", r"blocks.\1.norm2.\2"),
    (
        LAYER + r"attention\.(?:attention\.)?([qkv])(?:uery|ey|alue|_proj)\.(.+)",
        r"blocks.\1.attn.\2.\3",
    ),
    (LAYER + r"attention\.(?:output\.dense|o_proj)\.(.+)", r"blocks.\1.attn.proj.\2"),
    (LAYER + r"(?:intermediate\.dense|mlp\.fc1)\.(.+)", r"blocks.\1.mlp.fc1.\2"),
    (LAYER + r"(?:output\.dense|mlp\.fc2)\.(.+)", r"blocks.\1.mlp.fc2.\2"),
    (r"classifier\.layernorm\.(.+)", r"source_head.0.\1"),
    (r"classifier\.dense\.(.+)", r"source_head.1.\1"),
]
# DeiT's ImageNet heads in the author layout, and the second head of PaSST.
UNUSED = re.compile(r"(?:v\.head|(?:v\.)?head_dist)\.(?:weight|bias)")
PASST_STATISTICS = {"mean": -4.5, "std": 2.5}  # of an input (x + 4.5) / 5
PASST_NORM_EPS = 1e-6
WRAPPERS = ("state_dict", "model")  # keys under which training checkpoints keep the tensors
PREFIX = "module."
MELS = 128
STRIDES = (10, 16, 12, 14)  # of the authors' recipes, the most common first
ANY_LENGTH = (10, 16)  # strides that are accepted for any input length, not only for FRAMES
FRAMES = (1024, 512, 128)  # inputs of their recipes for AudioSet, ESC-50 and Speech Commands
# Arrays of integers, pickled by numpy 1: PANNs' file has the state of a sampler beside its tensors.
NUMPY_ARRAYS = [
    (np.empty(0).__reduce__()[0], "numpy.core.multiarray._reconstruct"),
    np.ndarray,
    np.dtype,
    np.dtypes.Int64DType,
]
LFS_POINTER = b"version https://git-lfs.github.com/spec/"


class WeightsError(ValueError):
    """An unusable weight file."""


def read_header(path: str | Path) -> dict[str, Any]:
    """Read the dims and the layout of a weight file.

    Returns:
        dict: `layout`, `dims` (keywords of `backbones.build`), `mean` and `std` if the file, its
        layout or the hub's `preprocessor_config.json` beside it says them, and `source_classes` in
        files of this project.

    Raises:
        WeightsError: missing, truncated, malicious, or not the weights of a backbone.
    """
    metadata, tensors = read(path)
    layout, state = _canonical(path, metadata, tensors)
    if layout == "ast_repr":
        return {"layout": layout, **_metadata_header(path, metadata)}
    if layout == "panns":
        try:
            return {"layout": layout, **cnn14.header(state)}
        except KeyError as error:
            raise WeightsError(f"{path}: not PANNs' CNN14, no {error}") from error
    if layout == "torchvggish":
        return {"layout": layout, "dims": {}}
    dims = _infer_dims(path, state)
    if layout == "passt":
        dims |= {"norm_eps": PASST_NORM_EPS}
        return {"layout": layout, "dims": dims, **PASST_STATISTICS}
    return {"layout": layout, "dims": dims, **_statistics(path)}


def load(backbone: nn.Module, path: str | Path) -> nn.Module:
    """Load a file in any of the layouts into `backbone` and return it.

    Raises:
        WeightsError: the file is missing, truncated or malicious, or its tensors do not match the
            backbone or hold NaN or infinity; keys are named.
    """
    metadata, tensors = read(path)
    # The sum is a quick sufficient test.
    bad = [key for key, x in tensors.items() if not (x.sum().isfinite() or x.isfinite().all())]
    if bad:
        raise WeightsError(
            f"{path}: NaN or infinity in {_few(bad)}, expected numbers; fetch the file again"
        )
    layout, state = _canonical(path, metadata, tensors)
    expected = backbone.state_dict()
    missing = sorted(expected.keys() - state.keys())
    extra = sorted(state.keys() - expected.keys())
    if missing or extra:
        raise WeightsError(
            f"{path}: not the weights of this backbone; missing: {_few(missing)}; "
            f"unexpected: {_few(extra)}"
        )
    if isinstance(backbone, AudioTransformer):
        dims = backbone.dims
        if "ast_repr" in metadata:
            dims = _metadata_header(path, metadata)["dims"]
        elif layout != "ast_repr":
            dims = _infer_dims(path, state)
        try:
            if dims["stride"] == backbone.dims["stride"]:
                is_passt = layout == "passt"
                state["pos_embed"] = fit_positions(state["pos_embed"], backbone.grid, is_passt)
            else:
                state["pos_embed"] = resample_positions(state["pos_embed"], dims, backbone.grid)
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise WeightsError(
                f"{path}: its header has other dims than an AST ({error}); expected patch, stride, "
                "frames and mels"
            ) from error
    misshapen = []
    for name, tensor in expected.items():
        shape = tuple(state[name].shape)
        if shape != tuple(tensor.shape):
            misshapen.append(f"{name} {shape}, expected {tuple(tensor.shape)}")
    if misshapen:
        raise WeightsError(f"{path}: weights of another size; found {_few(misshapen)}")
    backbone.load_state_dict(state, strict=True)
    return backbone


def save(
    backbone: nn.Module,
    path: str | Path,
    source_classes: Sequence[str] = (),
    dtype: torch.dtype | None = None,
) -> None:
    """Write a backbone to safetensors; metadata: dims, normalisation and source classes.

    Args:
        dtype: of the stored tensors, None for their own; `load` restores the backbone's.
    """
    header = {
        "dims": backbone.dims,
        "mean": backbone.mean,
        "std": backbone.std,
        "source_classes": list(source_classes),
    }
    state = {}
    for name, tensor in backbone.state_dict().items():
        state[name] = tensor.detach().to("cpu", dtype).contiguous()
    atomic.write_bytes(path, serialise(state, metadata={"ast_repr": json.dumps(header)}))


def fingerprint(module: nn.Module) -> str:
    """Compute the sha256 of the names and values of a module's tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        values = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(name.encode())
        digest.update(values.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def fit_positions(
    pos_embed: torch.Tensor, grid: tuple[int, int], from_start: bool = False
) -> torch.Tensor:
    """Fit (1, 2 + rows * columns, D) to `grid` = (rows, columns) in time.

    Columns are cropped around the middle or, with `from_start`, at the end, as PaSST does; more
    columns are interpolated bilinearly.
    """
    rows, columns = grid
    patches = pos_embed.shape[1] - 2
    if patches == rows * columns or patches % rows:
        return pos_embed  # it fits, or differs in frequency, as the check of shapes then reports
    old_columns = patches // rows
    tokens = pos_embed[:, :2]
    image = pos_embed[:, 2:].transpose(1, 2).unflatten(2, (rows, old_columns))
    if columns < old_columns:
        start = 0 if from_start else (old_columns - columns) // 2
        image = image[..., start : start + columns]
    else:
        image = functional.interpolate(image, (rows, columns), mode="bilinear", align_corners=False)
    return torch.cat([tokens, image.flatten(2).transpose(1, 2)], dim=1)


def resample_positions(
    pos_embed: torch.Tensor, dims: Mapping[str, Any], grid: tuple[int, int]
) -> torch.Tensor:
    """Interpolate (1, 2 + rows * columns, D) bilinearly to `grid` = (rows, columns).

    Args:
        dims: of the network that the positions are from.
    """
    old_grid = patch_grid(dims["patch"], dims["stride"], dims["frames"], dims["mels"])
    if min(old_grid) < 1 or pos_embed.shape[1] != 2 + old_grid[0] * old_grid[1]:
        return pos_embed  # it contradicts its header, as the check of shapes then reports
    return resample_abs_pos_embed(
        pos_embed, grid, old_grid, num_prefix_tokens=2, interpolation="bilinear", antialias=False
    )


def read(path: str | Path) -> tuple[dict[str, str], Tensors]:
    """Read metadata and tensors of a safetensors or pickle file, the latter with weights_only.

    Raises:
        WeightsError: missing, truncated, malicious, or without tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such weight file")
    refuse_pointer(path)
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                names = file.keys()
                return file.metadata() or {}, {name: file.get_tensor(name) for name in names}
        with open(path, "rb") as file:
            refuse_compressed(file)
        with torch.serialization.safe_globals(NUMPY_ARRAYS):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise WeightsError(
            f"{path}: refused, it holds more than tensors; nothing in it was run"
        ) from error
    except Exception as error:  # torch has a different one for each kind of other file
        reason = str(error).partition("\n")[0] or "it ends too soon"
        raise WeightsError(
            f"{path}: truncated or not a weight file ({reason}); fetch it again"
        ) from error
    state = _unwrapped(state)
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        kind = f"a {type(state).__name__}"
        if isinstance(state, dict):
            kind = f"a dict of {_few(sorted(map(str, state)))}"
        raise WeightsError(
            f"{path}: found {kind}, expected a dict of tensors, "
            f"also under the key {' or '.join(WRAPPERS)}"
        )
    return {}, state


def refuse_pointer(path: Path) -> None:
    """Refuse the short text that Git LFS leaves in place of a file."""
    with open(path, "rb") as file:
        start = file.read(len(LFS_POINTER))
    if start == LFS_POINTER:
        raise WeightsError(
            f"{path}: a Git LFS pointer, expected the file that it stands for; "
            "run `git lfs pull` in its repository, or download the file itself"
        )


def _unwrapped(state: Any) -> Any:
    """Return the tensors inside a training checkpoint, without the prefixes of wrappers."""
    while isinstance(state, dict):
        inside = [state[key] for key in WRAPPERS if isinstance(state.get(key), dict)]
        if not inside:
            break
        state = inside[0]
    while isinstance(state, dict) and state and all(str(key).startswith(PREFIX) for key in state):
        state = {key.removeprefix(PREFIX): value for key, value in state.items()}
    return state


def _metadata_header(path: str | Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Parse the header that `save` wrote."""
    message = f"{path}: no readable `ast_repr` metadata; expected a file written by this project"
    try:
        header = json.loads(metadata["ast_repr"])
    except (KeyError, ValueError) as error:
        raise WeightsError(message) from error
    if not isinstance(header, dict) or not isinstance(header.get("dims"), dict):
        raise WeightsError(message)
    return header


def _canonical(
    path: str | Path, metadata: Mapping[str, str], tensors: Tensors
) -> tuple[str, Tensors]:
    """Return the layout, and the tensors under this project's names, with q, k and v joined."""
    layout = "ast_repr" if "ast_repr" in metadata else _layout(tensors)
    if layout in ("ast_repr", "torchvggish"):
        return layout, dict(tensors)
    if layout == "panns":
        return layout, cnn14.rename(tensors)
    if layout == "passt":
        tensors = _with_joint_positions(path, tensors)
    state = {}
    for key, tensor in tensors.items():
        if not UNUSED.fullmatch(key):
            state[_renamed(path, key)] = tensor
    for key in [key for key in state if ".attn.q." in key]:
        parts = [key.replace(".attn.q.", f".attn.{part}.") for part in "qkv"]
        if not all(part in state for part in parts):
            raise WeightsError(f"{path}: incomplete attention, expected all of {', '.join(parts)}")
        joined = torch.cat([state.pop(part) for part in parts])
        state[key.replace(".attn.q.", ".attn.qkv.")] = joined
    return layout, state


def _with_joint_positions(path: str | Path, tensors: Tensors) -> Tensors:
    """Replace the position embeddings of PaSST by AST's one, their sum for each patch."""
    others = dict(tensors)
    try:
        tokens = others.pop("new_pos_embed")  # (1, 2, D)
        time = others.pop("time_new_pos_embed")  # (1, D, 1, columns)
        freq = others.pop("freq_new_pos_embed")  # (1, D, rows, 1)
        patches = (time + freq).flatten(2).transpose(1, 2)
        return others | {"pos_embed": torch.cat([tokens, patches], dim=1)}
    except (KeyError, IndexError, RuntimeError) as error:
        raise WeightsError(
            f"{path}: position embeddings that are not PaSST's ({error}); expected new_pos_embed "
            "(1, 2, D), time_new_pos_embed (1, D, 1, columns), freq_new_pos_embed (1, D, rows, 1)"
        ) from error


def _layout(names: Mapping[str, Any]) -> str:
    if "source_head.1.weight" in names:
        return "ast_repr"
    if "new_pos_embed" in names:
        return "passt"
    if "fc_audioset.weight" in names:
        return "panns"
    if "embeddings.4.weight" in names:
        return "torchvggish"
    if any(UNUSED.fullmatch(name) or "v.blocks." in name for name in names):
        return "author"
    if any(".encoder.layer." in name for name in names):
        return "hub"
    return "transformers"


def _renamed(path: str | Path, key: str) -> str:
    for pattern, name in RENAMES:
        match = re.fullmatch(pattern, key)
        if match:
            return match.expand(name)
    raise WeightsError(
        f"{path}: unexpected tensor {key!r}; "
        "expected weights in author, passt, hub, transformers, panns, torchvggish or ast_repr "
        "layout"
    )


def _infer_dims(path: str | Path, state: Tensors) -> dict[str, int]:
    """Infer the dims from the shapes of the tensors and a `config.json` beside the file.

    Without the latter, heads are assumed to be 64 wide, and the stride to be the first of STRIDES
    that suits the number of position embeddings.
    """
    try:
        embed_dim, _, patch, _ = state["patch_embed.weight"].shape
        patches = state["pos_embed"].shape[1] - 2
        depth = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks."))
        n_source = len(state["source_head.1.bias"])
    except (KeyError, ValueError) as error:
        raise WeightsError(f"{path}: not an AST, no {error}") from error
    dims = {"embed_dim": embed_dim, "depth": depth, "patch": patch, "n_source": n_source}
    config = _config(Path(path).with_name("config.json"))
    stride = config.get("time_stride")
    if config.get("hidden_size") == embed_dim and config.get("frequency_stride") == stride:
        try:
            return dims | {
                "num_heads": config["num_attention_heads"],
                "stride": config["time_stride"],
                "frames": config["max_length"],
                "mels": config["num_mel_bins"],
            }
        except KeyError as error:
            raise WeightsError(
                f"{path}: config.json beside it has no {error}; complete it or move it away"
            ) from error
    for stride in STRIDES:
        rows = max(1, (MELS - patch) // stride + 1)
        columns, rest = divmod(patches, rows)
        usual = [frames for frames in FRAMES if (frames - patch) // stride + 1 == columns]
        if rest == 0 and columns > 0 and (usual or stride in ANY_LENGTH):
            return dims | {
                "num_heads": max(1, embed_dim // 64),
                "stride": stride,
                "frames": usual[0] if usual else (columns - 1) * stride + patch,
                "mels": MELS,
            }
    raise WeightsError(
        f"{path}: {patches} patches fit no usual stride and length over {MELS} bands; "
        "put the model's config.json beside it"
    )


def _statistics(path: str | Path) -> dict[str, float]:
    """Read mean and std of the log-mels from a `preprocessor_config.json` beside the file."""
    config = _config(Path(path).with_name("preprocessor_config.json"))
    if config.get("feature_extractor_type") != "ASTFeatureExtractor":
        return {}
    statistics = {key: config.get(key) for key in ("mean", "std")}
    if not all(typecheck.matches(value, float) for value in statistics.values()):
        raise WeightsError(
            f"{path}: preprocessor_config.json beside it has no numbers mean and std; "
            "complete it or move it away"
        )
    return statistics


def _config(path: Path) -> dict[str, Any]:
    """Read a JSON file; empty if there is none."""
    if not path.is_file():
        return {}
    try:
        config = json.loads(atomic.read_text(path))
    except ValueError as error:
        raise WeightsError(f"{path}: not JSON ({error}); repair it or move it away") from error
    return config if isinstance(config, dict) else {}


def _few(items: Sequence[str], most: int = 4) -> str:
    if not items:
        return "none"
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more
