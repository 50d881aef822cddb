"""Windows of clips: the parts that a feature is computed from.

A clip that is longer than a feature's window is cut; a window is a `manifest.Clip` with the split,
group and labels of its clip. Training takes windows as examples; scoring combines those of a clip.
"""

import math
from collections.abc import Iterable
from dataclasses import replace

from ..audio import Window
from ..manifest import Clip

MARK = "@"  # in the name of a window, before its first second


def of_clip(clip: Clip, window: Window) -> list[Clip]:
    """Cut a clip into windows, the last of which ends with it.

    A clip that is not longer than a window is its only window.
    """
    last_s = clip.seconds - window.seconds
    if last_s <= 0:
        return [clip]
    count = math.ceil(round(last_s / window.hop_s, 6))
    windows = []
    for start_s in [*(number * window.hop_s for number in range(count)), last_s]:
        name = f"{clip.clip}{MARK}{start_s:.4g}"
        start_s += clip.start_s
        windows.append(replace(clip, clip=name, start_s=start_s, seconds=window.seconds))
    return windows


def of_clips(clips: Iterable[Clip], window: Window) -> list[Clip]:
    """List the windows of all clips, in order."""
    windows = []
    for clip in clips:
        windows += of_clip(clip, window)
    return windows


def clip_name(name: str) -> str:
    """Return the name of a window's clip.

    >>> clip_name("song@1.5")
    'song'
    """
    return name.rpartition(MARK)[0]
