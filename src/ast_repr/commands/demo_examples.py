"""Clips to try a model on: of its own corpus, from the test split, with their labels."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import soundfile

from .. import audio, escaping, manifest
from ..corpora import synthetic

EXAMPLES = 3


@dataclass(frozen=True)
class Example:
    """A clip that no model was trained on.

    Attributes:
        known: whether a class sounds in it; classes without a label are missing.
        write: writes its audio into a folder, and returns the path.
    """

    known: dict[str, bool]
    write: Callable[[Path], Path]

    @property
    def label(self) -> str:
        """The instruments that it has."""
        names = [escaping.terminal(escaping.plain(n)) for n, sounds in self.known.items() if sounds]
        return ", ".join(names) or "none of the labelled instruments"


def built_in() -> list[Example]:
    """List clips in the manner of the built-in corpus; each is rendered when it is written."""
    examples = []
    for number in range(EXAMPLES):
        write = partial(synthetic.render_example, number=number)
        examples.append(Example(synthetic.example_truth(number), write))
    return examples


def prepared(corpus: str, checkout: Path) -> list[Example]:
    """List test clips of a corpus that was prepared in the checkout, each by another artist.

    Empty if there is none, or its audio is missing.
    """
    examples = {}
    for path in sorted(checkout.glob("egs/*/data/*/manifest.jsonl")):
        if path.parent.name != corpus:
            continue
        clips, _ = manifest.read(path.parent)
        for clip in clips:
            known = clip.truth or clip.labels
            if clip.split == "test" and known and (path.parent / clip.audio).is_file():
                sounds = {name: value >= manifest.PRESENT for name, value in known.items()}
                examples.setdefault(clip.group, Example(sounds, partial(_cut, path.parent, clip)))
    return list(examples.values())[:EXAMPLES]


def _cut(data, clip, folder):
    """Write a clip of a manifest in `data` as a WAV file."""
    waveform = audio.decode(data / clip.audio, clip.start_s, clip.seconds)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "example.wav"
    soundfile.write(path, waveform, audio.SAMPLE_RATE)
    return path
