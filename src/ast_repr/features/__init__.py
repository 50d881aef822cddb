"""Features: waveforms (B, N) -> float32 (B, C, frames, bins).

`spec()` returns the settings that determine a feature's values. A feature that the corpus carries
precomputed has `read(audio_path) -> (C, frames, bins)` instead of being called. `mean` and `std`
are statistics for (x - mean) / (2 std), for networks that have none.
"""

from collections.abc import Sequence
from typing import Any

from .. import registry
from ..manifest import SIDECARS, Clip
from .han_mel import HanMel
from .logmel import LogMel
from .multi_stft import MultiSTFT
from .musicnn_mel import MusicnnMel
from .vggish import VGGish, VGGishError

FEATURES = {
    "han_mel": HanMel,
    "logmel": LogMel,
    "multi_stft": MultiSTFT,
    "musicnn_mel": MusicnnMel,
    "vggish": VGGish,
}

__all__ = ["FEATURES", "VGGishError", "build", "lacking"]


def build(name: str | type, **kwargs: Any) -> Any:
    """Build the feature `name`, or the class that `registry.resolve` returned.

    Raises:
        ValueError: an unknown name or keyword; the message lists the valid ones.
    """
    return registry.build("feature", FEATURES, name, kwargs)


def lacking(clips: Sequence[Clip]) -> list[str]:
    """List the precomputed features that a corpus lacks, judged by its first clip."""
    return [feature for feature in SIDECARS if feature not in clips[0].sidecars]
