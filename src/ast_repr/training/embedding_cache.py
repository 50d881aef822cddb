"""What heads read of clips, embeddings or source logits: computed once, kept beside the features.

That is possible if nothing before the head changes. A file's name is a hash of all that decides its
values: what has changed since is never read, and any file may be deleted at any time.
"""

import inspect
import struct
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from .. import atomic, identity
from ..backbones.weights import fingerprint
from ..data import feature_store

# What numpy and zipfile raise if there is no file, or its checksums, names, kinds or lengths are
# wrong.
DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    OSError,
    EOFError,
    KeyError,
    TypeError,
    ValueError,
    RuntimeError,
)


class EmbeddingCache:
    """What heads read of the clips of one feature store.

    It stays in memory from run to run, and on disk from process to process.

    Args:
        data: folder of the corpus, whose `embeddings` holds the files; None: features come from no
            store, and nothing goes to disk.
        feature: name of the feature; `spec`: what decides its values.
        memory: dict that runs of this process share.
    """

    def __init__(self, data, feature, spec, memory):
        self.folder = data and Path(data) / "embeddings"
        self.store = data and Path(data) / "features" / feature
        self.spec, self.memory = spec, memory

    def read(self, model, clips, spec, device, label, size=32):
        """What the head reads of each clip, computed if it is not there yet.

        Args:
            model: a Reprogrammed that `build_model` built from the values `spec`; nothing before its
                head changes.
            clips: dataset.Clips.
            label: for the progress bar.
            size: clips at once.

        Returns:
            (float32 tensor (N, D) or (N, S) on the CPU, seconds that it took when it was computed).
        """
        if not shareable(model, spec):
            return compute(model, clips, device, label, size)
        name = self._name(model, clips, spec, device)
        if name not in self.memory:
            path = self.folder and self.folder / f"{name}.npz"
            found = load(path) if path else None
            if found is None:
                found = compute(model, clips, device, label, size)
                if path:
                    save(path, *found)
            self.memory[name] = found
        return self.memory[name]

    def _name(self, model, clips, spec, device):
        """Of the file: "embedding-..." or "source_logits-..."."""
        identities = {}
        for header in feature_store.headers(self.store) if self.store else []:
            identities |= header.identities
        decides = {
            "clips": [(name, identities.get(name)) for name in clips.names],
            "feature": self.spec,
            "norm": (model.mean, model.std),
            "reprogrammer": spec["reprogrammer"],
            "backbone": [
                spec["backbone"]["name"],
                spec["backbone"]["options"],
                fingerprint(model.backbone),
            ],
            "code": [
                Path(inspect.getfile(type(part))).read_text(encoding="utf-8")
                for part in (model.reprogrammer, model.backbone)
            ],  # it may be a user's
            "input_key": model.head.input_key,
            "device": device.type,
        }
        return f"{model.head.input_key}-{identity.of_values(decides)}"


def shareable(model, spec):
    """Whether runs of other seeds read the same.

    They do if the reprogrammer has no state, and the frozen weights are those of a file, or none.
    """
    return not model.reprogrammer.state_dict() and (
        spec["backbone"]["file"] is not None or not model.backbone.state_dict()
    )


def compute(model, clips, device, label, size):
    """(what the head reads of each clip, seconds that it took); the model's mode is put back."""
    mode, started = model.training, time.monotonic()
    model.eval()
    steps = tqdm(clips.batches(size), label, -(-len(clips) // size), unit="batch", leave=False)
    read = torch.cat([model.head_input(batch.to(device).features).cpu() for batch in steps])
    model.train(mode)
    return read, time.monotonic() - started


def save(path, read, seconds):
    """Write both to `path`; if that fails, as on a full disk, say so and go without."""
    try:
        with atomic.replacing(path) as partial, open(partial, "wb") as file:
            np.savez(file, read=read.numpy(), seconds=seconds)
    except OSError as error:
        print(f"embeddings are not kept, and will be computed again: {error}")


def load(path):
    """What `save` wrote; None where there is no such file, or it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return torch.from_numpy(file["read"]), float(file["seconds"])
    except DAMAGED:
        return None
