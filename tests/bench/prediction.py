"""Predicting files with the shipped AST: CPU time against decoding alone, and its parts.

Files of ten seconds of 44.1 kHz stereo Vorbis, as in "Features". Decoding alone reads them by
soundfile (libsndfile) at their own rate. "Cut into windows" also averages the channels, resamples
to 16 kHz and looks for damage. All is computed on one thread, in batches of 16, and counted in CPU
time of the process. `predict --precision auto` takes bfloat16 where the device computes in it.
"""

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import record
import soundfile
import torch
from features import write_sound

from ast_repr import audio, devices, inference

FILES = 16
BATCH = 16
DECODING = "decoding alone"
MOST = 1.5  # times decoding alone


def main(args: argparse.Namespace) -> None:
    """Time decoding, the parts of a prediction and whole predictions, and save the rows."""
    torch.set_num_threads(1)
    devices.choose("cpu")
    count = 2 if args.quick else FILES
    with tempfile.TemporaryDirectory() as folder:
        paths = [write_sound(Path(folder) / f"{seed}.ogg", seed) for seed in range(count)]
        work = parts(paths)
        seconds = record.alternate(work, 1 if args.quick else 3, clock=time.process_time)
    decoding_s = np.median(seconds[DECODING])
    rows = []
    for name, taken in seconds.items():
        row = {"CPU time of": name, **record.spread(taken / count)}
        times = float(np.median(taken) / decoding_s)
        row |= {"times decoding": times, "goal": None, "met": None}
        if name.startswith("predict"):
            row |= record.goal(times, most=MOST)
        rows.append(row)
    record.save("prediction", rows)


def parts(paths: list[Path]) -> dict:
    """Make functions that decode or predict all files, and the parts of a prediction."""
    models = {"float32": inference.load()}
    if devices.has_bf16(torch.device("cpu")):
        models["bfloat16"] = inference.load(precision="auto")
    model = models["float32"]
    window = model.window
    waveforms = torch.from_numpy(np.stack([audio.clip(path) for path in paths]))
    features = model.feature(waveforms)
    work = {
        DECODING: partial(decode, paths),
        "cut into windows": partial(cut_into_windows, paths, window),
        "log-mel": partial(model.feature, waveforms),
    }
    for precision, predictor in models.items():
        work[f"network, {precision}"] = partial(network, predictor, features)
    for precision, predictor in models.items():
        work[f"predict, {precision}"] = partial(predict, predictor, paths)
    return work


def decode(paths: list[Path]) -> None:
    """Decode all channels of the files at their own rate."""
    for path in paths:
        soundfile.read(path, dtype="float32")


def cut_into_windows(paths: list[Path], window: audio.Window) -> None:
    """Decode the files as a prediction does."""
    for path in paths:
        for _ in audio.file_windows(path, window, window.samples):
            pass


@torch.no_grad()
def network(predictor: inference.TorchPredictor, features: torch.Tensor) -> None:
    """Compute the probabilities of features (B, C, T, F) in batches."""
    for batch in features.split(BATCH):
        predictor.model(batch)


def predict(
    predictor: inference.Predictor, paths: list[Path], batch: int = BATCH
) -> list[np.ndarray]:
    """Return the probabilities (K,) of each file."""
    return [song.probabilities for song in predictor.predict(paths, batch_size=batch)]


if __name__ == "__main__":
    main(record.parser(__doc__, device=False).parse_args())
