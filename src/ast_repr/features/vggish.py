"""OpenMIC-2018's VGGish: ten frames of 128 dimensions per clip, quantised to 0..255.

It is read from the corpus, `vggish/<first 3>/<sample_key>.json` beside `audio/`, not computed. The
JSON files are used because the npz of the same numbers needs an unsafe pickle.
"""

import json
from pathlib import Path
from typing import Any

import torch

from .. import atomic
from ..manifest import sidecar

FRAMES = 10  # each 0.96 s of ten seconds
BINS = 128


class VGGishError(ValueError):
    """An unusable VGGish file; the message names it and says found and expected."""


class VGGish:
    """VGGish of a clip, read from the file that belongs to its audio.

    `mean` and `std` make (x - mean) / (2 std) equal x / 255, the input of Gururani et al. (2019).
    """

    mean = 0.0
    std = 127.5
    frames = FRAMES
    bins = BINS

    def spec(self) -> dict[str, Any]:
        """Return the settings that determine the values."""
        return {"feature": "vggish", "version": 1, "frames": FRAMES, "bins": BINS}

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one clip's feature: (channels, frames, bins)."""
        return (1, FRAMES, BINS)

    def read(self, audio_path: str | Path) -> torch.Tensor:
        """Read the VGGish (1, 10, 128) float32, whole numbers from 0 to 255, of an audio file.

        Raises:
            VGGishError: no file, not JSON, or not ten frames of 128 whole numbers from 0 to 255.
        """
        path = sidecar(audio_path, "vggish")
        try:
            frames = json.loads(atomic.read_text(path))["features"]
        except FileNotFoundError as error:
            raise VGGishError(
                f"{path}: no such file; expected the VGGish of {audio_path}, as in OpenMIC-2018"
            ) from error
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise VGGishError(
                f"{path}: found no JSON object with 'features'; unpack the corpus again"
            ) from error
        problem = _problem(frames)
        if problem:
            raise VGGishError(f"{path}: {problem}; unpack the corpus again")
        return torch.tensor(frames, dtype=torch.float32)[None]

    def __call__(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Refuse to compute VGGish, whose network is not part of this project.

        Raises:
            VGGishError: always.
        """
        raise VGGishError(
            "vggish is read from OpenMIC-2018's files, not computed from audio; "
            "use a model trained on logmel"
        )


def _problem(frames: Any) -> str | None:
    """Describe why `frames` are not ten frames of 128 whole numbers from 0 to 255, or None."""
    expected = f"expected {FRAMES} frames of {BINS} numbers"
    if not isinstance(frames, list):
        return f"found {type(frames).__name__}, {expected}"
    lengths = {len(frame) if isinstance(frame, list) else 0 for frame in frames}
    if len(frames) != FRAMES or lengths != {BINS}:
        listed = " and ".join(map(str, sorted(lengths))) or "nothing"
        return f"found {len(frames)} frames of {listed}, {expected}"
    for frame in frames:
        for value in frame:
            if type(value) is not int or not 0 <= value <= 255:
                return f"found {value!r}, expected whole numbers from 0 to 255"
    return None
