"""Prediction: songs a second, and how much faster than they sound

What `src/predict.py` does with songs of three minutes (Ogg, 44.1 kHz, stereo, made here): decode, resample, log-mel, network,
windows of ten seconds without overlap in batches of 16. Beside it decoding alone, which any program has to do: the same files
read by soundfile in one process. They take turns. Weights of AST-base are random, which costs the same.
"""

import tempfile
from pathlib import Path

import networks
import numpy as np
import record
import soundfile
from features import sound

from ast_repr import backbones, checkpoint, devices, inference

BLOCK = 441_000  # samples read at once


def main(args):
    where = devices.choose(args.device)
    seconds, songs, small = (20, 2, {"depth": 1}) if args.quick else (180, 4, {})
    with tempfile.TemporaryDirectory() as folder:
        paths = [sound(Path(folder) / f"{seed}.ogg", seed, seconds) for seed in range(songs)]
        models = {
            "shipped small AST": (*networks.shipped(), paths),
            "AST-base": (*networks.paper(**small), paths[:1] if where.type == "cpu" else paths),
        }
        rows = []
        for name, (model, spec, heard) in models.items():
            listen = inference.load(
                saved(Path(folder) / "model.pt", model, spec), where
            ).predict_windows
            work = {
                "listen": lambda listen=listen, heard=heard: list(listen(heard)),
                "decode": lambda heard=heard: [decode(path) for path in heard],
            }
            taken = {
                key: float(np.median(found)) / len(heard)
                for key, found in record.alternate(work, 1 if args.quick else 3).items()
            }
            rows.append(
                {
                    "model": name,
                    "on": where.type,
                    "songs": len(heard),
                    "a song's length s": seconds,
                    "s a song": taken["listen"],
                    "songs/s": 1 / taken["listen"],
                    "times real time": seconds / taken["listen"],
                    "decoding alone, s a song": taken["decode"],
                    "times decoding": taken["listen"] / taken["decode"],
                }
            )
    record.save("predict", rows, on=where)


def decode(path):
    for _ in soundfile.blocks(path, BLOCK, dtype="float32"):
        pass


def saved(path, model, spec):
    """A checkpoint as the trainer writes it."""
    about = {
        "classes": networks.CLASSES,
        "feature": {"name": "logmel"},
        "spec": spec,
        "backbone_sha256": backbones.weights.fingerprint(model.backbone),
    }
    checkpoint.save(path, {"learned": model.trainable_state_dict(), "epoch": 1, "about": about})
    return path


if __name__ == "__main__":
    main(record.parser(__doc__).parse_args())
