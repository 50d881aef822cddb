"""Weights of AST from a file in any known layout: strict, checked, without running code from it.

Three key layouts are read and one is written:
    author        the authors' `.pth`: `module.v.blocks.N.attn.qkv.*`, `module.mlp_head.{0,1}.*`
    hub           the hub's safetensors: `encoder.layer.N.attention.attention.query.*`,
    transformers  transformers >= 5 in memory: `layers.N.attention.q_proj.*`,
                  both below `audio_spectrogram_transformer.`
    ast_repr      this project's own names, with the dims in the safetensors metadata (`save`)

The tensors may lie in a training checkpoint, {"state_dict": ...} or {"model": ...}, and their names
may begin with "module.", as nn.DataParallel has it.

Position embeddings are cut around the middle, or extended bilinearly, along time when the backbone
was built for another number of frames (Gong et al. 2021, section 2.2).
"""

import hashlib
import json
import re
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import safe_open
from safetensors.torch import save as serialise
from torch.nn import functional

from .. import atomic
from ..checkpoint import refuse_compressed

HF = "audio_spectrogram_transformer."
LAYER = r"audio_spectrogram_transformer\.(?:encoder\.layer|layers)\.(\d+)\."
RENAMES = [  # (layout's name, ours); the first that matches is applied
    (r"v\.(cls_token|dist_token|pos_embed|norm\..+|blocks\..+)", r"\1"),
    (r"v\.patch_embed\.proj\.(.+)", r"patch_embed.\1"),
    (r"mlp_head\.([01]\..+)", r"source_head.\1"),
    (re.escape(HF) + r"embeddings\.cls_token", "cls_token"),
    (re.escape(HF) + r"embeddings\.distillation_token", "dist_token"),
    (re.escape(HF) + r"embeddings\.position_embeddings", "pos_embed"),
    (re.escape(HF) + r"embeddings\.patch_embeddings\.projection\.(.+)", r"patch_embed.\1"),
    (re.escape(HF) + r"layernorm\.(.+)", r"norm.\1"),
    (LAYER + r"layernorm_before\.(.+)", r"blocks.\1.norm1.\2"),
    (LAYER + r"layernorm_after\.(.+)", r"blocks.\1.norm2.\2"),
    (
        LAYER + r"attention\.(?:attention\.(query|key|value)|([qkv])_proj)\.(.+)",
        r"blocks.\1.attn.\2\3.\4",
    ),
    (LAYER + r"attention\.(?:output\.dense|o_proj)\.(.+)", r"blocks.\1.attn.proj.\2"),
    (LAYER + r"(?:intermediate\.dense|mlp\.fc1)\.(.+)", r"blocks.\1.mlp.fc1.\2"),
    (LAYER + r"(?:output\.dense|mlp\.fc2)\.(.+)", r"blocks.\1.mlp.fc2.\2"),
    (r"classifier\.layernorm\.(.+)", r"source_head.0.\1"),
    (r"classifier\.dense\.(.+)", r"source_head.1.\1"),
]
# DeiT's ImageNet heads, in the author layout only.
DEAD = re.compile(r"v\.head(?:_dist)?\.(?:weight|bias)")
WRAPPERS = ("state_dict", "model")  # keys under which training checkpoints keep the tensors
PREFIX = "module."
MELS = 128
STRIDES = (10, 16, 12, 14)  # of the authors' recipes, the most usual first
ANY_LENGTH = (10, 16)  # strides that are taken for an input of any length, not of FRAMES only
FRAMES = (1024, 512, 128)  # inputs of their recipes for AudioSet, ESC-50 and Speech Commands
LFS_POINTER = b"version https://git-lfs.github.com/spec/"


class WeightsError(ValueError):
    """A weight file that cannot be used; the message names it, what was found and expected."""


def read_header(path):
    """Dims and layout found in a weight file.

    Returns:
        dict: `layout`, `dims` (keywords of `backbones.build("ast")`) and, if the file says them,
        `mean` and `std`.

    Raises:
        WeightsError: missing, truncated, malicious, or not an AST.
    """
    metadata, tensors = _read(path)
    layout, state = _canonical(path, tensors)
    if layout == "ast_repr":
        try:
            header = json.loads(metadata["ast_repr"])
        except (KeyError, ValueError) as error:
            raise WeightsError(
                f"{path}: no readable `ast_repr` metadata; expected a file written by this project"
            ) from error
        return {"layout": layout, **header}
    return {"layout": layout, "dims": _infer_dims(path, state)}


def load(backbone, path):
    """Fill `backbone` (in place, strictly) from a file in any of the layouts; returns the backbone.

    Raises:
        WeightsError: the file is missing, truncated or malicious, or its tensors are not the
            backbone's or hold NaN or infinity; keys are named.
    """
    _, tensors = _read(path)
    _refuse_not_finite(path, tensors)
    _, state = _canonical(path, tensors)
    expected = backbone.state_dict()
    missing, extra = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    if missing or extra:
        raise WeightsError(
            f"{path}: not the weights of this backbone; missing: {_few(missing)}; "
            f"unexpected: {_few(extra)}"
        )
    state["pos_embed"] = fit_positions(state["pos_embed"], backbone.grid)
    wrong = [
        f"{k} {tuple(state[k].shape)}, expected {tuple(v.shape)}"
        for k, v in expected.items()
        if state[k].shape != v.shape
    ]
    if wrong:
        raise WeightsError(f"{path}: weights of another size; found {_few(wrong)}")
    backbone.load_state_dict(state, strict=True)
    return backbone


def save(backbone, path, source_classes=()):
    """Write a backbone to safetensors; metadata: dims, normalisation and source classes."""
    header = {
        "dims": backbone.dims,
        "mean": backbone.mean,
        "std": backbone.std,
        "source_classes": list(source_classes),
    }
    state = {
        key: tensor.detach().cpu().contiguous() for key, tensor in backbone.state_dict().items()
    }
    atomic.write_bytes(path, serialise(state, metadata={"ast_repr": json.dumps(header)}))


def fingerprint(module):
    """sha256 over the names and values of a module's tensors: equal only if nothing has moved."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(
            tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()


def fit_positions(pos_embed, grid):
    """Fit (1, 2 + rows * columns, D) to `grid` = (rows, columns) in time.

    The columns are cut around the middle, or extended bilinearly.
    """
    rows, columns = grid
    patches = pos_embed.shape[1] - 2
    if patches == rows * columns or patches % rows:
        # It fits already, or differs in frequency, which the shape check then reports.
        return pos_embed
    found = patches // rows
    tokens, image = pos_embed[:, :2], pos_embed[:, 2:].transpose(1, 2).unflatten(2, (rows, found))
    if columns < found:
        start = (found - columns) // 2
        image = image[..., start : start + columns]
    else:
        image = functional.interpolate(image, (rows, columns), mode="bilinear", align_corners=False)
    return torch.cat([tokens, image.flatten(2).transpose(1, 2)], dim=1)


def _read(path):
    """Metadata and tensors of a safetensors or pickle file; pickles are read with weights_only."""
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such weight file")
    _refuse_pointer(path)
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                names = file.keys()
                return file.metadata() or {}, {name: file.get_tensor(name) for name in names}
        with open(path, "rb") as file:
            refuse_compressed(file)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise WeightsError(
            f"{path}: refused, it holds more than tensors; nothing in it was run"
        ) from error
    except Exception as error:  # torch has one of its own for each kind of other file
        reason = str(error).partition("\n")[0] or "it ends too soon"
        raise WeightsError(
            f"{path}: truncated or not a weight file ({reason}); fetch it again"
        ) from error
    state = _unwrapped(state)
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise WeightsError(
            f"{path}: found {_kind(state)}, expected a dict of tensors, "
            f"also under the key {' or '.join(WRAPPERS)}"
        )
    return {}, state


def _refuse_pointer(path):
    """Say so if Git LFS has left a text of three lines in place of the file."""
    with open(path, "rb") as file:
        start = file.read(len(LFS_POINTER))
    if start == LFS_POINTER:
        raise WeightsError(
            f"{path}: a Git LFS pointer, expected the weights that it stands for; "
            "run `git lfs pull` where it was cloned, or download the file itself"
        )


def _unwrapped(state):
    """The tensors of a training checkpoint by their names, without the prefixes of wrappers."""
    while isinstance(state, dict):
        inside = [state[key] for key in WRAPPERS if isinstance(state.get(key), dict)]
        if not inside:
            break
        state = inside[0]
    while isinstance(state, dict) and state and all(_has_prefix(key) for key in state):
        state = {key.removeprefix(PREFIX): value for key, value in state.items()}
    return state


def _has_prefix(key):
    return isinstance(key, str) and key.startswith(PREFIX)


def _kind(value):
    """What a file holds, for a message."""
    if isinstance(value, dict):
        return f"a dict of {_few(sorted(map(str, value)))}"
    return f"a {type(value).__name__}"


def _refuse_not_finite(path, tensors):
    """Refuse tensors that hold NaN or infinity: no training recovers from them."""
    bad = [name for name, tensor in tensors.items() if not _is_finite(tensor)]
    if bad:
        raise WeightsError(
            f"{path}: NaN or infinity in {_few(bad)}, expected numbers; fetch the file again"
        )


def _is_finite(tensor):
    """Whether all values are finite; a sum, which is quick, is finite only if all of them are."""
    return bool(tensor.sum().isfinite() or tensor.isfinite().all())


def _canonical(path, tensors):
    """Name of the layout, and the tensors under this project's names; q, k and v are joined."""
    if "source_head.1.weight" in tensors:
        return "ast_repr", dict(tensors)
    layout = (
        "author"
        if any(DEAD.fullmatch(k) or "v.blocks." in k for k in tensors)
        else "hub"
        if any(".encoder.layer." in k for k in tensors)
        else "transformers"
    )
    state = {}
    for key, tensor in tensors.items():
        if DEAD.fullmatch(key):
            continue
        for pattern, name in RENAMES:
            if match := re.fullmatch(pattern, key):
                state[match.expand(name)] = tensor
                break
        else:
            raise WeightsError(
                f"{path}: unexpected tensor {key!r}; "
                "expected an AST in author, hub, transformers or ast_repr layout"
            )
    for key in [k for k in state if re.search(r"\.attn\.(query|q)\.", k)]:
        parts = [
            re.sub(r"\.(query|q)\.", f".{name}.", key)
            for name in (("query", "key", "value") if ".query." in key else "qkv")
        ]
        if not all(part in state for part in parts):
            raise WeightsError(f"{path}: incomplete attention, expected all of {', '.join(parts)}")
        state[re.sub(r"\.(query|q)\.", ".qkv.", key)] = torch.cat(
            [state.pop(part) for part in parts]
        )
    return layout, state


def _infer_dims(path, state):
    """Dims from the shapes; what these do not tell is taken from a `config.json` beside the file.

    That is: heads, strides and the length of the input. Without that file heads are 64 wide, and
    the stride is the first of STRIDES whose rows of patches divide the position embeddings.
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
    if config.get("hidden_size") == embed_dim:
        strides = config.get("time_stride"), config.get("frequency_stride")
        if strides[0] == strides[1]:
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


def _config(path):
    """A config.json as a dict, empty without one."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(atomic.read_text(path))
    except ValueError as error:
        raise WeightsError(f"{path}: not JSON ({error}); repair it or move it away") from error
    return found if isinstance(found, dict) else {}


def _few(items, n=4):
    return (
        ", ".join(items[:n]) + (f" and {len(items) - n} more" if len(items) > n else "")
        if items
        else "none"
    )
