"""Features: waveforms (B, N) -> float32 (B, C, frames, bins).

`spec()` returns the settings that determine a feature's values. A feature that the corpus carries
precomputed has `read(audio_path) -> (C, frames, bins)` instead of being called. `mean` and `std`
are statistics for (x - mean) / (2 std), for networks that have none. `seconds`, `hop_s` and
`sample_rate`, which a feature may lack, describe its waveforms, see `audio.Window`. Attention has
times in seconds if the feature has `frames_per_second`. Augmentations need `to_power` and
`from_power`, which convert values to power per cell and back, `warp`, which changes the tempo and
the pitch of powers, and for filters `hz`, the frequencies of the bands (F,).
"""

from collections.abc import Sequence
from typing import Any

from .. import audio, registry
from ..audio import Window
from ..manifest import SIDECARS, Clip
from .han_mel import HanMel
from .logmel import LogMel
from .logmel_passt import PaSSTLogMel
from .logmel_vggish import VGGishLogMel
from .multi_stft import MultiSTFT
from .musicnn_mel import MusicnnMel
from .panns_mel import PannsMel
from .scalogram import Scalogram
from .vggish import VGGish, VGGishError

FEATURES = {
    "han_mel": HanMel,
    "logmel": LogMel,
    "logmel_passt": PaSSTLogMel,
    "logmel_vggish": VGGishLogMel,
    "multi_stft": MultiSTFT,
    "musicnn_mel": MusicnnMel,
    "panns_mel": PannsMel,
    "scalogram": Scalogram,
    "vggish": VGGish,
}

MOST_SECONDS = 1_000  # of a window
LEAST_HOP_S = 0.01

__all__ = ["FEATURES", "VGGishError", "build", "lacking", "window"]


def build(name: str | type, **kwargs: Any) -> Any:
    """Build the feature `name`, or the class that `registry.resolve` returned.

    Raises:
        ValueError: an unknown name or keyword; the message lists the valid ones.
    """
    return registry.build("feature", FEATURES, name, kwargs)


def window(feature: Any) -> Window:
    """Return the Window of a feature; without a `hop_s` its windows do not overlap.

    Raises:
        ValueError: a value is out of range.
    """
    seconds = getattr(feature, "seconds", audio.CLIP_SECONDS)
    hop_s = getattr(feature, "hop_s", None) or seconds
    sample_rate = getattr(feature, "sample_rate", audio.SAMPLE_RATE)
    in_range = audio.SHORTEST_CLIP <= seconds <= MOST_SECONDS and LEAST_HOP_S <= hop_s <= seconds
    if not in_range or sample_rate < audio.LOWEST_RATE:
        raise ValueError(
            f"feature: windows of {seconds} s, {hop_s} s apart, at {sample_rate} Hz; expected "
            f"{audio.SHORTEST_CLIP} to {MOST_SECONDS} s, from {LEAST_HOP_S} s to their length "
            f"apart, and {audio.LOWEST_RATE} Hz or more"
        )
    return Window(seconds, hop_s, sample_rate)


def lacking(clips: Sequence[Clip]) -> list[str]:
    """List the precomputed features that a corpus lacks, judged by its first clip."""
    return [feature for feature in SIDECARS if feature not in clips[0].sidecars]
