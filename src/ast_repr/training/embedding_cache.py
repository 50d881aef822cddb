"""Cache of the inputs of heads: embeddings, source logits or tokens, in memory and on disk.

Inputs are cached if nothing before the head is trained. A file's name is a hash of everything that
decides its values: any file may be deleted at any time. Tokens are large (AST-base: 1.9 MB per
clip): they are kept in float16, and their size is printed and checked before they are computed.
"""

import inspect
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from .. import atomic, devices, identity
from ..backbones.weights import fingerprint
from ..classifier import Reprogrammed
from ..data import feature_store
from ..data.dataset import Clips


class EmbeddingCache:
    """Inputs of heads for the clips of one feature store.

    Args:
        data: folder of the corpus, whose `embeddings` holds the files; None to use no files.
        feature: name of the feature; `spec`: its settings.
        memory: dict that runs of this process share.
    """

    def __init__(self, data: str | Path | None, feature: str, spec: dict, memory: dict):
        self.folder = None
        self.store = None
        if data is not None:
            self.folder = Path(data) / "embeddings"
            self.store = Path(data) / "features" / feature
        self.spec = spec
        self.memory = memory

    def read(
        self,
        model: Reprogrammed,
        clips: Clips,
        spec: dict,
        device: torch.device,
        label: str,
        size: int = 32,
    ) -> tuple[torch.Tensor, float]:
        """Return the head's input for each clip, computed if it is not cached.

        Args:
            model: built by `build_model` from the values `spec`; only its head is trained.
            label: for the progress bar.
            size: clips per batch.

        Returns:
            tensor (N, D) or (N, S), float32, or (N, tokens, D), float16, on the CPU, and the
            seconds that computing it took.

        Raises:
            ValueError: the tokens exceed the free memory or disk space.
        """
        if not shareable(model, spec):
            return self._compute(model, clips, device, label, size)
        name = self._name(model, clips, spec, device)
        if name not in self.memory:
            self.memory[name] = self._load_or_compute(name, model, clips, device, label, size)
        return self.memory[name]

    def _load_or_compute(self, name, model, clips, device, label, size):
        if self.folder is None:
            return self._compute(model, clips, device, label, size)
        path = self.folder / f"{name}.npz"
        loaded = load(path)
        if loaded is not None:
            return loaded
        inputs, seconds = self._compute(model, clips, device, label, size, self.folder)
        save(path, inputs, seconds)
        return inputs, seconds

    def _compute(self, model, clips, device, label, size, folder=None):
        """As `compute`, after `check_space` if the inputs are tokens."""
        if model.head.input_key == "tokens":
            check_space(model, clips, device, label, folder)
        return compute(model, clips, device, label, size)

    def _name(self, model, clips, spec, device):
        """Name a file: "embedding-...", "source_logits-..." or "tokens-..."."""
        identities = {}
        if self.store is not None:
            for header in feature_store.headers(self.store):
                identities |= header.identities
        code = []
        for part in (model.reprogrammer, model.backbone):  # it may be a user's
            code.append(Path(inspect.getfile(type(part))).read_text(encoding="utf-8"))
        decides = {
            "clips": [(name, identities.get(name)) for name in clips.names],
            "feature": self.spec,
            "norm": model.norm,
            "reprogrammer": spec["reprogrammer"],
            "backbone": [
                spec["backbone"]["name"],
                spec["backbone"]["options"],
                fingerprint(model.backbone),
            ],
            "code": code,
            "input_key": model.head.input_key,
            "device": device.type,
            "bf16": model.bf16,
        }
        return f"{model.head.input_key}-{identity.of_values(decides)}"


def shareable(model: Reprogrammed, spec: dict) -> bool:
    """Whether runs with other seeds have the same inputs of their heads.

    They do if there is no adapter, the reprogrammer has no state, and the frozen weights are a
    file's.
    """
    if model.adapter is not None or model.reprogrammer.state_dict():
        return False
    return spec["backbone"]["file"] is not None or not model.backbone.state_dict()


def check_space(
    model: Reprogrammed, clips: Clips, device: torch.device, label: str, folder: Path | None
) -> None:
    """Print the size of all clips' tokens; refuse more than the free memory or disk space.

    Args:
        folder: where tokens are saved; None if they stay in memory.

    Raises:
        ValueError: see above.
    """
    mode = model.training
    first = clips.batch(torch.tensor([0])).to(device).features
    needed = len(clips) * model.eval().head_input(first).half().nbytes
    model.train(mode)
    free = {"memory": devices.memory_left()}
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        free["disk"] = shutil.disk_usage(folder).free
    places = " and ".join(free)
    print(f"{label}: {needed / 1e9:.2g} GB of tokens in {places}", flush=True)
    if needed > min(free.values()):
        found = " and ".join(f"{left / 1e9:.2g} GB of {place}" for place, left in free.items())
        raise ValueError(
            f"tokens of {len(clips):,} clips: found {found}, expected {needed / 1e9:.2g} GB of "
            "each; free some, or use fewer clips: --set train.clip_fraction=0.5"
        )


def compute(
    model: Reprogrammed, clips: Clips, device: torch.device, label: str, size: int
) -> tuple[torch.Tensor, float]:
    """Compute the head's input for each clip; return it on the CPU, and the seconds taken.

    Tokens are rounded to float16.
    """
    mode = model.training
    started = time.monotonic()
    model.eval()
    batches = -(-len(clips) // size)
    bar = tqdm(clips.batches(size), label, batches, unit="batch", leave=False, disable=None)
    if bar.disable:
        print(f"{label}: {len(clips):,} clips", flush=True)
    inputs = torch.empty(0)
    place = 0
    for batch in bar:
        part = model.head_input(batch.to(device).features)
        if model.head.input_key == "tokens":
            part = part.half()
        if not place:
            inputs = torch.empty(len(clips), *part.shape[1:], dtype=part.dtype)
        inputs[place : place + len(part)] = part
        place += len(part)
    model.train(mode)
    return inputs, time.monotonic() - started


def save(path: Path, inputs: torch.Tensor, seconds: float) -> None:
    """Write a file of the cache; if that fails, as on a full disk, only print the reason."""
    try:
        with atomic.replacing(path) as partial, open(partial, "wb") as file:
            np.savez(file, read=inputs.numpy(), seconds=seconds)
    except OSError as error:
        print(f"embeddings are not kept, and will be computed again: {error}")


def load(path: Path) -> tuple[torch.Tensor, float] | None:
    """Read a file of the cache; None if it is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return torch.from_numpy(file["read"]), float(file["seconds"])
    except Exception:  # numpy and zipfile have a different one for each kind of damage
        return None
