"""Features: waveforms (B, N) in, float32 (B, C, frames, bins) out. A feature says with `spec()` what decides its values."""

from .. import rooms
from .logmel import LogMel

FEATURES = {"logmel": LogMel}


def build(name, **kwargs):
    """Build the feature `name`; an unknown name or keyword raises ValueError that lists what there is."""
    return rooms.build("feature", FEATURES, name, kwargs)
