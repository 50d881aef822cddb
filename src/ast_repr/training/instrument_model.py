"""The instruments model: a calibrated logistic regression per instrument on a frozen backbone.

It is fitted on clips whose truth is fully known: those of pre-training (three soundfonts, rooms,
codecs; `corpora/sounds.py`), the built-in corpus, and sounds without music as counterexamples. For
AST, all are augmented as in pre-training. For musicnn they are not: its embeddings of the clips of
pre-training are stored with them. Probabilities are calibrated on held-out clips, for a prior that
is chosen: how often instruments occur in the rendered clips says nothing about the world.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import ConcatDataset, DataLoader, Dataset

from .. import features, manifest, metrics
from ..classifier import Reprogrammed
from ..corpora import noises, sounds
from ..corpora.arrangement import CRASHES, HATS, INSTRUMENTS, KICK, RIDES, SNARES, TOMS
from ..data import dataset, feature_store
from . import pretraining_clips
from .distillation import augment

SUMMARY = (
    "Recognises twenty instruments. Trained on rendered music only: expect errors on recordings, "
    "and missed singers; see the limitations in its model card."
)
CLASSES = sorted(INSTRUMENTS)
PRIOR = 0.15  # of each instrument: three of the twenty sound in ten seconds
MOST_WRONG = 1.0  # instruments named wrongly per clip, at that prior, by the threshold
CS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
MIXED = 0.5  # share of clips to which another one is added
BATCH = 64
CORPUS_VIEWS = 3  # how often the built-in corpus counts, which is smaller than the others
NOISES = 512
FRAMES = {"logmel": pretraining_clips.FRAMES, "musicnn_mel": 626}  # of ten seconds, without padding
STORED = {"logmel": {}, "musicnn_mel": {"frames": 640}}  # options of the recipes' features
KEYS = {
    "drums": (35, KICK, *SNARES, *TOMS),
    "cymbals": (*HATS, *RIDES, *CRASHES),
}
WITHOUT_PRESET = ("mandolin", "ukulele")  # in General MIDI; the built-in corpus alone has them
# Presets that a listener may call by the name too: whether the instrument sounds is unknown.
AMBIGUOUS = {
    "bass": (37, 43),
    "cello": (41, 43, 44, 45, 48, 49, 50, 51),
    "cymbals": (119,),
    "drums": (116, 117, 118),
    "flute": (72, 74, 75, 77, 79),
    "guitar": (28, 31, 120),
    "mallet_percussion": (8, 10, 14, 108, 114),
    "mandolin": (25,),
    "piano": (4, 5),
    "saxophone": (67,),
    "synthesizer": (4, 5, 38, 39, 50, 51, 54, 62, 63, *range(80, 104)),
    "trombone": (58, 61),
    "trumpet": (61,),
    "ukulele": (24,),
    "violin": (41, 44, 45, 48, 49, 50, 51),
    "voice": (85, 91),
}


def instruments_of(truth: torch.Tensor) -> torch.Tensor:
    """Derive which instruments sound from which of the 175 sounds do.

    Args:
        truth: (N, 175), 0 or 1, in the order of `sounds.CLASSES`.

    Returns:
        (N, 20) float32: 1 present, 0 absent, NaN unknown.
    """
    truth = truth.bool()
    columns = []
    for name in CLASSES:
        keys = [sounds.PRESETS + sounds.DRUM_KEYS.index(key) for key in KEYS.get(name, ())]
        ambiguous = truth[:, list(AMBIGUOUS.get(name, ()))].any(dim=1)
        programs = [] if name in WITHOUT_PRESET else list(INSTRUMENTS[name].programs)
        present = truth[:, keys + programs].any(dim=1)
        column = present.float()
        column[ambiguous & ~present] = torch.nan
        columns.append(column)
    return torch.stack(columns, dim=1)


class RenderedClips(Dataset):
    """The clips of pre-training in a folder of shards: (log-mel (998, 128), truth (20,)).

    Attributes:
        embedding: musicnn's (N, 1506).
    """

    def __init__(self, folder: Path):
        self.clips = pretraining_clips.Clips(folder, None, pretraining_clips.count(folder))
        self.truth = instruments_of(self.clips.truth)
        self.embedding = self.clips.embedding.float()

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.clips.batch([index]).log_mel[0], self.truth[index]


class CorpusClips(Dataset):
    """A split of a prepared corpus that knows its truth: (feature (T, F), truth (20,)).

    Args:
        data: folder of the corpus.
        split: train, valid or test.
        feature: name of the feature, which is returned without its padding.

    Attributes:
        truth: NaN for instruments that the corpus does not have.

    Raises:
        ValueError: no clip of the split has a truth, or the features are missing or stale.
    """

    def __init__(self, data: Path, split: str, feature: str):
        clips, _ = manifest.read(data)
        self.store = feature_store.Store(
            data / "features" / feature,
            features.build(feature, **STORED[feature]).spec(),
            manifest.identities(clips, feature),
        )
        self.frames = FRAMES[feature]
        clips = feature_store.usable(data / "features", clips)
        clips = [clip for clip in clips if clip.split == split and clip.truth]
        if not clips:
            raise ValueError(
                f"{data}: no clip of the split {split} has a truth; expected a corpus that knows "
                "which instruments sound"
            )
        self.names = [clip.clip for clip in clips]
        truth = [[clip.truth.get(name, torch.nan) for name in CLASSES] for clip in clips]
        self.truth = torch.tensor(truth, dtype=torch.float32)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        stored = torch.from_numpy(self.store.read([self.names[index]]))
        return stored[0, 0, : self.frames].float(), self.truth[index]


class NoiseClips(Dataset):
    """Sounds without music: (feature (T, F), truth (20,)).

    All instruments are absent, except that speech may or may not count as a voice.
    """

    def __init__(self, count: int, seed: int, feature: str):
        self.count = count
        self.seed = seed
        self.feature = features.build(feature, frames=FRAMES[feature])

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        sound, kind = noises.draw(np.random.default_rng([self.seed, index]))
        truth = torch.zeros(len(CLASSES))
        if kind == "speech":
            truth[CLASSES.index("voice")] = torch.nan
        return self.feature(torch.from_numpy(sound)[None])[0, 0].half().float(), truth


def is_augmented(feature: str) -> bool:
    """Whether clips with this feature are augmented, as those of pre-training are."""
    return feature == "logmel"


def embed_split(
    model: Reprogrammed, feature: str, shards: Path, data: Path, split: str, seed: int
) -> dataset.Batch:
    """Embed the clips that the head is fitted on, or the held-out ones that calibrate it.

    Args:
        feature: name of the backbone's feature, logmel or musicnn_mel.
        shards: folder of pre-training, with the folders train and valid.
        data: folder of the prepared built-in corpus.
        split: train, which has sounds without music as well, or valid.
        seed: of the augmentation.
    """
    rendered = RenderedClips(shards / split)
    corpus = CorpusClips(data, split, feature)
    noise = [NoiseClips(NOISES, 0, feature)] if split == "train" else []
    if is_augmented(feature):
        clips = ConcatDataset([rendered, *[corpus] * CORPUS_VIEWS, *noise])
        return embed(model, clips, augmented=True, seed=seed)
    truth = rendered.truth
    parts = [dataset.Batch(rendered.embedding, truth.nan_to_num(), ~truth.isnan())]
    parts += [embed(model, corpus, augmented=False)] * CORPUS_VIEWS
    parts += [embed(model, clips, augmented=False) for clips in noise]
    return dataset.Batch.concatenate(parts)


@torch.no_grad()
def embed(model: Reprogrammed, clips: Dataset, augmented: bool, seed: int = 0) -> dataset.Batch:
    """Compute the embeddings of all clips; log-mels may be augmented, in random order.

    Returns:
        Batch of features (N, D), targets (N, 20), and the mask of known cells.
    """
    generator = torch.Generator().manual_seed(seed)
    embeddings = []
    truths = []
    for feature, truth in DataLoader(clips, BATCH, shuffle=augmented, generator=generator):
        if augmented:
            nothing = truth[:, :0]  # no targets of a teacher
            batch = pretraining_clips.Batch(feature, truth, nothing, nothing)
            batch = augment(batch, generator, MIXED, model.backbone.mean)
            feature, truth = batch.log_mel, batch.truth
        padding = model.backbone.dims["frames"] - feature.shape[1]
        embeddings.append(model.head_input(functional.pad(feature, (0, 0, 0, padding))[:, None]))
        truths.append(truth)
    truth = torch.cat(truths)
    return dataset.Batch(torch.cat(embeddings), truth.nan_to_num(), ~truth.isnan())


def fit(model: Reprogrammed, train: dataset.Batch, valid: dataset.Batch) -> float:
    """Fit and calibrate the model's logistic head.

    Returns:
        the threshold: the least one, in steps of 0.05, that names at most MOST_WRONG wrong
        instruments per clip on the held-out clips, at the prior.
    """
    model.head.fit(train, valid, seed=0)
    model.head.calibrate(valid, PRIOR)
    scores = probabilities(model, valid)
    absent = valid.mask.numpy() & (valid.targets.numpy() == 0)
    for threshold in np.arange(0.05, 0.5, 0.05).round(2).tolist():
        false_alarms = ((scores >= threshold) & absent).sum(axis=0) / absent.sum(axis=0)
        if (1 - PRIOR) * false_alarms.sum() <= MOST_WRONG:
            return threshold
    return 0.5


@torch.no_grad()
def probabilities(model: Reprogrammed, clips: dataset.Batch) -> np.ndarray:
    """Compute the probabilities (N, 20) of embedded clips."""
    return model.head.linear(clips.features).sigmoid().numpy()


def evaluate(model: Reprogrammed, clips: dataset.Batch, threshold: float) -> dict:
    """Measure how well the model does on embedded clips, where the truth is known.

    Returns:
        dict: clips, those of `metrics.evaluate`, ece (over all cells), and per clip the number of
        instruments present, and of those named rightly and wrongly.
    """
    scores = probabilities(model, clips)
    mask = clips.mask.numpy()
    present = clips.targets.numpy() == 1
    named = (scores >= threshold) & mask
    return {
        "clips": len(scores),
        **metrics.evaluate(clips.targets.numpy(), mask, scores, threshold, CLASSES),
        "ece": metrics.expected_calibration_error(present[mask], scores[mask]),
        "present_per_clip": float((present & mask).sum(axis=1).mean()),
        "right_per_clip": float((named & present).sum(axis=1).mean()),
        "wrong_per_clip": float((named & ~present).sum(axis=1).mean()),
    }


def describe(results: dict) -> str:
    """Describe the result of `evaluate` in a line."""
    auroc = "-" if results["auroc"] is None else f"{results['auroc']:.3f}"
    return (
        f"{results['clips']} clips: AUROC {auroc}, calibration error {results['ece']:.3f}, "
        f"per clip {results['present_per_clip']:.2f} present, {results['right_per_clip']:.2f} "
        f"named rightly, {results['wrong_per_clip']:.2f} wrongly"
    )


def weakest(results: dict, count: int = 5) -> Sequence[str]:
    """List the instruments of least AUROC, the worst first."""
    scored = {
        name: values["auroc"]
        for name, values in results["per_instrument"].items()
        if values["auroc"] is not None
    }
    return sorted(scored, key=scored.get)[:count]
