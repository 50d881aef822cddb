"""Clips for pre-training, in shards: log-mels, the truth, and the outputs of a teacher.

They are rendered, or excerpts of recorded songs. A shard of 512 clips is made by one process and
written atomically, so an interrupted run resumes with the next shard. It carries the identity of
the settings that it was made from and the sha256 of its tensors: other settings and damage are
refused.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise

from .. import atomic, backbones, features, identity, processes
from ..corpora import songs, sounds
from ..export.safetensors import content_hash

SHARD_CLIPS = 512
CLIP_BYTES = 260_000
FRAMES = 998  # of ten seconds, without AST's padding
VERSION = 2  # of rendering; raise it if the same settings give other clips


@dataclass(frozen=True)
class Settings:
    """Everything that determines a set of clips.

    Attributes:
        soundfonts: files.
        teacher: file of musicnn's weights.
        seed: training and validation clips have different ones.
        shard_clips: clips per shard.
        songs: files of recorded music, of which the clips are excerpts; none: clips are rendered.
    """

    soundfonts: tuple[Path, ...]
    teacher: Path
    seed: int
    shard_clips: int = SHARD_CLIPS
    songs: tuple[Path, ...] = ()

    def identity(self) -> str:
        """Return the sha256 of these settings and of the files' content."""
        values = {
            "version": VERSION,
            "soundfonts": [identity.of_file(path) for path in self.soundfonts],
            "teacher": identity.of_file(self.teacher),
            "seed": self.seed,
            "shard_clips": self.shard_clips,
        }
        if self.songs:
            values["songs"] = [identity.of_file(path) for path in self.songs]
        return identity.of_values(values)


@dataclass(frozen=True)
class Batch:
    """Clips and their targets, float32.

    Attributes:
        log_mel: (B, 998, 128), un-normalised.
        truth: (B, 175), 0 or 1, NaN if unknown.
        embedding: (B, 1506), the teacher's.
        tags: (B, 50), probabilities by the teacher.
    """

    log_mel: torch.Tensor
    truth: torch.Tensor
    embedding: torch.Tensor
    tags: torch.Tensor


class Clips:
    """The clips of all shards in a folder; log-mels stay on disk until they are read.

    Args:
        folder: of the shards.
        settings: that they were made from; None takes any that all shards share.
        shards: number of shards.

    Attributes:
        identity: sha256 of the settings that they were made from, and their number.

    Raises:
        ValueError: a shard is missing, damaged, or was made from other settings.
    """

    def __init__(self, folder: Path, settings: Settings | None, shards: int):
        made_from = settings.identity() if settings else _read_identity(_path(folder, 0))
        opened = [_open(_path(folder, index), made_from) for index in range(shards)]
        self.shard_clips = len(opened[0]["truth"])
        self.identity = f"{made_from}, {shards * self.shard_clips} clips"
        self._log_mels = [tensors["log_mel"] for tensors in opened]
        self.truth = torch.cat([tensors["truth"] for tensors in opened]).to(torch.int8)
        self.embedding = torch.cat([tensors["embedding"] for tensors in opened])
        self.tags = torch.cat([tensors["tags"] for tensors in opened])

    def __len__(self) -> int:
        return len(self.truth)

    def __add__(self, other: "Clips") -> "Clips":
        """Join the clips of two folders.

        Raises:
            ValueError: their shards are not equally large.
        """
        if other.shard_clips != self.shard_clips:
            raise ValueError(
                f"shards of {self.shard_clips} and of {other.shard_clips} clips; expected the same"
            )
        joined = copy(self)
        joined.identity = f"{self.identity}; {other.identity}"
        joined._log_mels = self._log_mels + other._log_mels
        joined.truth = torch.cat([self.truth, other.truth])
        joined.embedding = torch.cat([self.embedding, other.embedding])
        joined.tags = torch.cat([self.tags, other.tags])
        return joined

    def known(self) -> torch.Tensor:
        """Return a mask (N,): True for clips whose truth is known."""
        return (self.truth != songs.UNKNOWN).all(dim=1)

    def batch(self, indices: Sequence[int]) -> Batch:
        """Read some clips."""
        log_mels = []
        for index in indices:
            shard, row = divmod(int(index), self.shard_clips)
            log_mels.append(self._log_mels[shard][row])
        truth = self.truth[indices].float()
        return Batch(
            torch.stack(log_mels).float(),
            truth.where(truth != songs.UNKNOWN, torch.nan),
            self.embedding[indices].float(),
            self.tags[indices].float(),
        )


def count(folder: Path) -> int:
    """Count the shards of a folder, from the first to the last without a gap."""
    index = 0
    while _path(folder, index).is_file():
        index += 1
    return index


def missing(folder: Path, shards: int) -> list[int]:
    """List the numbers of the shards that are not rendered yet."""
    return [index for index in range(shards) if not _path(folder, index).is_file()]


def render(folder: Path, settings: Settings, shards: int, nj: int) -> None:
    """Render the missing shards of a folder in `nj` processes.

    Raises:
        RuntimeError: a process was killed; finished shards are kept.
    """
    atomic.sweep(folder)
    todo = missing(folder, shards)
    if not todo:
        return
    jobs = [(folder, settings, settings.identity(), index) for index in todo]
    with processes.pool(min(nj, len(todo)), torch.set_num_threads, (1,)) as pool:
        for done, _ in enumerate(pool.map(_render_shard, jobs), 1):
            print(f"{folder.name}: rendered {done} of {len(todo)} shards", flush=True)


def _path(folder: Path, index: int) -> Path:
    return folder / f"{index:05d}.safetensors"


@torch.no_grad()
def _render_shard(job: tuple[Path, Settings, str, int]) -> None:
    folder, settings, made_from, index = job
    rng = np.random.default_rng([settings.seed, index])
    if settings.songs:
        source = songs.Excerpts(settings.songs, len(sounds.CLASSES), rng)
    else:
        source = sounds.Renderer(settings.soundfonts, rng)
    log_mel = features.build("logmel", frames=FRAMES)
    teacher = load_teacher(settings.teacher)
    teacher_mel = features.build("musicnn_mel", frames=teacher.dims["frames"])
    columns = {"log_mel": [], "truth": [], "embedding": [], "tags": []}
    for _ in range(settings.shard_clips):
        waveform, truth = source.clip()
        waveforms = torch.from_numpy(waveform)[None]
        output = teacher((teacher_mel(waveforms) - teacher.mean) / (2 * teacher.std))
        columns["log_mel"].append(log_mel(waveforms)[0, 0].half())
        columns["truth"].append(torch.from_numpy(truth))
        columns["embedding"].append(output.embedding[0].half())
        columns["tags"].append(output.source_logits[0].sigmoid().half())
    tensors = {name: torch.stack(values) for name, values in columns.items()}
    header = {"made_from": made_from, "sha256": content_hash(made_from, tensors)}
    atomic.write_bytes(_path(folder, index), serialise(tensors, header))


def load_teacher(path: Path) -> backbones.Musicnn:
    """Load musicnn with its pooled embedding."""
    header = backbones.weights.read_header(path)
    dims = header["dims"] | {"embedding": "pooled"}
    teacher = backbones.build("musicnn", mean=header["mean"], std=header["std"], **dims)
    return backbones.weights.load(teacher, path).eval()


def _read_identity(path: Path) -> str:
    try:
        with safe_open(path, "pt") as file:
            return file.metadata()["made_from"]
    except (OSError, SafetensorError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: missing or damaged; run egs/pretrain/run.sh, which renders the clips"
        ) from error


def _open(path: Path, made_from: str) -> dict[str, torch.Tensor]:
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata()
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
        same_settings = header["made_from"] == made_from
        damaged = header["sha256"] != content_hash(header["made_from"], tensors)
    except FileNotFoundError as error:
        raise ValueError(f"{path}: missing; run the same command again to render it") from error
    except (SafetensorError, KeyError, TypeError):
        damaged = True
    if damaged:
        raise ValueError(f"{path}: damaged; delete it, and run the same command to render it again")
    if not same_settings:
        raise ValueError(
            f"{path}: rendered with other soundfonts, another teacher or number of clips per shard "
            "than this command's; delete the folder, or use another one (--data)"
        )
    return tensors
