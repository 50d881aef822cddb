"""OpenMIC-2018's own VGGish: ten frames of 128 dimensions a clip, whitened, clipped and quantised to 0..255 by its authors.

It is read from the corpus, `vggish/<first 3>/<sample_key>.json` beside `audio/`, not computed. As plain JSON, so that
nothing in a file is ever run (the npz of the same numbers needs an unsafe pickle).
"""

import json

import torch

from .. import atomic
from ..manifest import sidecar

FRAMES, BINS = 10, 128  # one frame each 0.96 s of ten seconds


class VGGishError(ValueError):
    """A VGGish file that cannot be used; the message names the file, what was found and what was expected."""


class VGGish:
    """VGGish of a clip, read from the file that belongs to its audio.

    `mean` and `std` make (x - mean) / (2 std) equal x / 255, which Gururani et al. (2019) feed to their network.
    """

    mean, std = 0.0, 127.5
    frames, bins = FRAMES, BINS

    def spec(self):
        """What decides the values: hashed into a feature store so that a stale one is refused."""
        return {"feature": "vggish", "version": 1, "frames": FRAMES, "bins": BINS}

    @property
    def shape(self):
        """Shape of one clip's feature: (channels, frames, bins)."""
        return (1, FRAMES, BINS)

    def read(self, audio_path):
        """VGGish (1, 10, 128) float32, whole numbers from 0 to 255, of the clip whose audio is at `audio_path`.

        Raises:
            VGGishError: no file, not JSON, or not ten frames of 128 whole numbers from 0 to 255.
        """
        path = sidecar(audio_path, "vggish")
        try:
            frames = json.loads(atomic.read_text(path))["features"]
        except FileNotFoundError as error:
            raise VGGishError(
                f"{path}: no such file; expected the VGGish of {audio_path}, as OpenMIC-2018 carries it"
            ) from error
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise VGGishError(
                f"{path}: found no JSON object with 'features'; unpack the corpus again"
            ) from error
        if (
            not isinstance(frames, list)
            or len(frames) != FRAMES
            or not all(isinstance(f, list) and len(f) == BINS for f in frames)
        ):
            shape = (
                f"{len(frames)} frames of {sizes(frames)}"
                if isinstance(frames, list)
                else type(frames).__name__
            )
            raise VGGishError(
                f"{path}: found {shape}, expected {FRAMES} frames of {BINS} numbers; unpack the corpus again"
            )
        for value in (value for frame in frames for value in frame):
            if type(value) is not int or not 0 <= value <= 255:
                raise VGGishError(
                    f"{path}: found {value!r}, expected whole numbers from 0 to 255; unpack the corpus again"
                )
        return torch.tensor(frames, dtype=torch.float32)[None]

    def __call__(self, waveforms):
        """VGGish's own network is not part of this project.

        Raises:
            VGGishError: always.
        """
        raise VGGishError(
            "vggish is read from OpenMIC-2018's files, not computed from sound; use a model trained on logmel"
        )


def sizes(frames):
    """The frames' lengths for a message: "128", or "127 and 128"."""
    return (
        " and ".join(
            map(str, sorted({len(frame) if isinstance(frame, list) else 0 for frame in frames}))
        )
        or "nothing"
    )
