"""Features: waveforms (B, N) in, float32 (B, C, frames, bins) out. A feature says with `spec()` what decides its values.

A feature that the corpus carries ready-made has `read(audio_path) -> (C, frames, bins)` instead. `mean` and `std` are
statistics for (x - mean) / (2 std), for networks that bring none of their own.
"""

from .. import registry
from ..manifest import SIDECARS
from .logmel import LogMel
from .musicnn_mel import MusicnnMel
from .vggish import VGGish, VGGishError

FEATURES = {"logmel": LogMel, "musicnn_mel": MusicnnMel, "vggish": VGGish}

__all__ = ["FEATURES", "VGGishError", "build", "lacking"]


def build(name, **kwargs):
    """Build the feature `name`, also a class (see `registry.resolve`).

    Raises:
        ValueError: an unknown name or keyword; the message lists what there is.
    """
    return registry.build("feature", FEATURES, name, kwargs)


def lacking(clips):
    """Names of features that the corpus does not carry, judged by its first clip."""
    return [feature for feature in SIDECARS if feature not in clips[0].sidecars]
