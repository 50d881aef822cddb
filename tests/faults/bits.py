"""One flipped bit in each kind of file that the project reads, through the code that reads it.

A file keeps its size and times, as after a fault of a disk. What comes of a read: refused (an
expected error), equal (the same content: the bit does not matter, or what it spoilt was made
again), said (other content, and a word on stderr that an undamaged file does not cause), silent
(other content, and no word), traceback, or hang. The first three are "survived", and the note of a
trial says which.
"""

import contextlib
import functools
import os
import random
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import content
import corpus
import numpy as np
import verdict
from processes import Called, isolated, script, stage
from verdict import Tally, Trial
from workshop import BACKBONE, CONF_DIR, CONFS, RUN, Workshop

from ast_repr import audio, checkpoint, config, inference, manifest, pretrained
from ast_repr.corpora import soundfont
from ast_repr.data import feature_store
from ast_repr.report import results
from ast_repr.training import embedding_cache, pretraining_clips

FLIPS = 60  # of each kind
SLOW_FLIPS = 20  # of those that take longer
LIMIT_S = 120.0
BAR = re.compile(r"^\s*$|\d+%\|")  # a line that is a progress bar, or empty
SHIPPED = "ast_tiny_synth"
SCRIPTS = ("prepare", "extract", "train", "score", "predict")  # of src
SOUNDS = (".ogg", ".flac", ".mp3", ".wav")


@dataclass(frozen=True)
class Kind:
    """A kind of file and how it is read.

    Attributes:
        name: of the kind.
        path: the file.
        read: returns what the file holds, as plain values, arrays and tensors.
        checked: False where the format has nothing by which a changed bit can be noticed.
        slow: whether it is read less often.
        changes: a folder in which the read may change files; it is put back after each one.
    """

    name: str
    path: Path
    read: Callable[[], object]
    checked: bool = True
    slow: bool = False
    changes: Path | None = None


def run(workshop: Workshop, flips: int, rng: random.Random) -> Tally:
    """Flip `flips` bits of each kind of file, one at a time."""
    tally = Tally("bits")
    workshop.build(["export", "onnx"])  # their files are there now, and all that they need
    for name in SCRIPTS:
        script(name)
    for kind in kinds(workshop):
        for trial in flip_bits(kind, min(flips, SLOW_FLIPS) if kind.slow else flips, rng):
            tally.add(trial)
    return tally


def flip_bits(kind: Kind, flips: int, rng: random.Random) -> Iterable[Trial]:
    """A trial for each of `flips` random bits of a kind's file, which is as it was afterwards."""
    with _unchanged(kind.changes):
        whole = isolated(lambda: content.digest_of(kind.read()), LIMIT_S)
    if whole.value is None:
        raise RuntimeError(f"{kind.name}: not read without a fault: {whole}")
    data, status = kind.path.read_bytes(), kind.path.stat()
    times = (status.st_atime_ns, status.st_mtime_ns)
    for _ in range(flips):
        bit = rng.randrange(8 * len(data))
        with _unchanged(kind.changes):
            _write(kind.path, _flipped(data, bit), times)
            called = isolated(lambda: content.digest_of(kind.read()), LIMIT_S)
            _write(kind.path, data, times)
        yield judge(kind, f"bit {bit}", whole, called)


def judge(kind: Kind, how: str, whole: Called, damaged: Called) -> Trial:
    """What came of the read of a damaged file, compared with that of the whole one."""
    if damaged.hang:
        result, note = verdict.HANG, ""
    elif damaged.traceback:
        result, note = verdict.TRACEBACK, damaged.traceback[-300:]
    elif damaged.error is not None and not _names(kind.path, damaged):
        result, note = verdict.FAILED, f"no file named: {damaged.error[:200]}"
    elif damaged.error is not None:
        result, note = verdict.SURVIVED, f"refused: {damaged.error[:200]}"
    elif damaged.value == whole.value:
        result, note = verdict.SURVIVED, "equal"
    elif words(damaged.err) != words(whole.err):
        result, note = verdict.SURVIVED, f"said: {words(damaged.err)[-200:]}"
    else:
        result, note = verdict.SILENT, ""
    counted = kind.checked or result in (verdict.TRACEBACK, verdict.HANG)
    return Trial(kind.name, result, how, note, counted=counted)


def words(text: str) -> str:
    """What was written, without progress bars."""
    return "\n".join(line for line in re.split(r"[\r\n]+", text) if not BAR.search(line)).strip()


def kinds(workshop: Workshop) -> list[Kind]:
    """Every kind of file, each with the public code path that reads it."""
    work = workshop.work
    return [
        *_data_files(work),
        *_run_files(workshop),
        *_models(work / "shared"),
        *_weights(workshop),
        *_audio(workshop),
        *_tables(workshop),
    ]


def _data_files(work):
    """Manifest, features and embeddings."""
    data = work / "data"
    shard = next((data / "features").glob("*/shard-*.h5"))
    embedding = next((data / "embeddings").glob("*.npz"))
    _clips(work)
    return [
        Kind("manifest.jsonl", data / "manifest.jsonl", lambda: _manifest(data)),
        Kind("classes.txt", data / "classes.txt", lambda: _manifest(data)),
        Kind("shard", shard, lambda: _features(data, shard.parent)),
        Kind("embeddings", embedding, lambda: _embeddings(embedding)),
        Kind("pretrain's clips", work / "clips/00000.safetensors", lambda: _clips(work)),
    ]


def _run_files(workshop):
    """What lies in a run folder: read as by the whole recipe, and as by the report alone."""
    exp, run = workshop.work / "exp", workshop.work / RUN
    best = next(run.glob("best.*.pt"))
    files = [best, run / "last.pt"]
    kinds = [Kind(path.name, path, lambda path=path: checkpoint.load(path)) for path in files]
    for name in ("config.yaml", "history.jsonl", "results.json", "predictions.npz"):
        kinds.append(Kind(f"{name}, recipe", run / name, lambda: _recipe(workshop), changes=exp))
    example = exp / CONFS[1] / "seed0" / "example.npz"
    for path in (run / "results.json", run / "history.jsonl", run / "predictions.npz", example):
        kinds.append(Kind(f"{path.name}, report", path, lambda: _report(exp)))
    return kinds


def _models(shared):
    """What src/export.py wrote, read as by src/predict.py."""
    safetensors, graph = shared / "model.safetensors", shared / "model.onnx"
    labels = shared / "labels.txt"
    return [
        Kind("model.safetensors", safetensors, lambda: _predictions(safetensors)),
        Kind("model.onnx", graph, lambda: _predictions(graph)),
        Kind("labels.txt", labels, lambda: _predictions(safetensors)),
    ]


def _weights(workshop):
    """The backbone's weights, as a finished run reads them, and as a new run does by their name."""
    own, run = workshop.work / f"{BACKBONE}.safetensors", workshop.work / RUN
    shipped = workshop.work / "pretrained" / f"{SHIPPED}.safetensors"
    shutil.copytree(pretrained.FOLDER, shipped.parent, ignore=shutil.ignore_patterns("downloads"))
    return [
        Kind("weights, of a run", own, lambda: _predictions(run)),
        Kind("weights, by name", shipped, lambda: _trained_on(workshop, shipped), slow=True),
    ]


def _audio(workshop):
    """Songs of each format for src/predict.py, and a clip for the stage extract."""
    work = workshop.work
    rng = np.random.default_rng(5)
    found = []
    for suffix in SOUNDS:
        path = work / "songs" / f"song{suffix}"
        path.parent.mkdir(exist_ok=True)
        corpus.write_sound(path, rng, np.array([True, False, True, True]))
        checked = suffix in (".ogg", ".flac")
        read = functools.partial(_predicted, work / RUN, path)
        found.append(Kind(f"song{suffix}", path, read, checked))
    clip = sorted((work / "corpus" / "audio").rglob("*.ogg"))[0]
    return [*found, Kind("clip.ogg, extract", clip, lambda: _extracted(workshop), slow=True)]


def _tables(workshop):
    """Texts that people write: nothing in them says that a bit is wrong."""
    work = workshop.work
    root = work / "corpus"
    names = ["class-map.json", "openmic-2018-aggregated-labels.csv", "openmic-2018-metadata.csv"]
    names.append("partitions/split01_train.csv")
    found = [Kind(Path(name).name, root / name, lambda: _prepared(work), False) for name in names]
    songs = corpus.write_own_data(work / "own")
    found.append(Kind("songs.csv", songs, lambda: stage("prepare", "--check", songs), False))
    confs = work / "conf"
    shutil.copytree(CONF_DIR, confs)
    for name in ("base.yaml", "ast_unet.yaml", "studies.yaml"):
        found.append(Kind(name, confs / name, lambda: _configs(confs), False))
    return found


def _names(path, called):
    """Whether an error, or what was written before it, names the file or its folder."""
    said = f"{called.error} {called.out} {called.err}"
    return path.name in said or str(path.parent) in said


def _manifest(data):
    clips, classes = manifest.read(data)
    return [repr(clip) for clip in clips], classes


def _features(data, folder):
    clips, _ = manifest.read(data)
    names = [clip.clip for clip in clips]
    return feature_store.Store(folder).read(names)


def _embeddings(path):
    found = embedding_cache.load(path)
    if found is None:
        raise ValueError(f"{path}: made again")
    return found


def _clips(work):
    """Four clips for pre-training, which are rendered if there is no such file."""
    soundfonts = (soundfont.default_soundfont(),)
    settings = pretraining_clips.Settings(soundfonts, work / "teacher.safetensors", 1, 4)
    pretraining_clips.render(work / "clips", settings, 1, 1)
    return vars(pretraining_clips.Clips(work / "clips", settings, 1).batch(range(4)))


def _recipe(workshop):
    """Stages train and score on a finished run, then what the report reads of it."""
    for name in ("train", "score"):
        stage(name, *workshop.command(name)[2:])
    best = next((workshop.work / RUN).glob("best.*.pt"))
    return _report(workshop.work / "exp"), checkpoint.load(best)


def _report(exp):
    """All that tables and figures are made of; what is left out is said, as src/report.py does."""
    tables, left_out = results.read(exp)
    for reason in left_out:
        print(reason, file=sys.stderr)
    found = []
    for table in tables:
        for run in table.runs:
            arrays = run.arrays("predictions.npz")
            example = run.arrays("example.npz") if run.has_example else None
            found.append([run.results, run.history, arrays, example])
    return found


def _predictions(path):
    """What a model makes of a sound, and what it says of itself."""
    model = inference.load(path)
    waveform = np.sin(np.arange(audio.CLIP_SAMPLES) / 7.0).astype(np.float32)[None]
    return model(waveform), model.classes, model.threshold


def _predicted(model, path):
    output = path.with_suffix(".json")
    output.unlink(missing_ok=True)
    stage("predict", "--model", model, "--format", "json", "--output", output, path)
    return output.read_text()


def _trained_on(workshop, shipped):
    """The head of a run on the weights that the catalogue knows, in a fresh folder."""
    pretrained.FOLDER = shipped.parent
    exp = workshop.work / "named"
    shutil.rmtree(exp, ignore_errors=True)
    options = workshop.command("train")[2:]
    options[options.index("--exp") + 1] = exp
    options[options.index("--conf") + 1] = CONFS[0]
    options[options.index("--backbone") + 1] = SHIPPED
    options[options.index("--weights") + 1] = shipped
    stage("train", *options)
    return checkpoint.load(next(exp.rglob("best.*.pt")))


def _extracted(workshop):
    """Features of the corpus, computed in a fresh folder for the manifest that is there."""
    data = workshop.work / "fresh"
    shutil.rmtree(data, ignore_errors=True)
    shutil.copytree(
        workshop.work / "data", data, ignore=shutil.ignore_patterns("features", "embeddings")
    )
    options = workshop.command("extract")[2:]
    options[options.index("--data") + 1] = data
    stage("extract", *options)
    return _features(data, next((data / "features").iterdir()))


def _prepared(work):
    """The manifest of the corpus, made again in another folder."""
    data = work / "again"
    shutil.rmtree(data, ignore_errors=True)
    stage("prepare", "--corpus", "openmic", "--root", work / "corpus", "--data", data)
    return _manifest(data)


def _configs(folder):
    """All confs of a folder, resolved."""
    names = config.select(folder, "all")
    return {name: config.load(folder, name) for name in names}, config.studies(folder)


def _flipped(data, bit):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@contextlib.contextmanager
def _unchanged(folder):
    """Put a folder back afterwards, with its times; None: there is nothing to put back."""
    if folder is None:
        yield
        return
    with tempfile.TemporaryDirectory() as kept:
        shutil.copytree(folder, kept, dirs_exist_ok=True)
        yield
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)


def _write(path, data, times):
    """Write bytes in place, so that neither size nor times tell."""
    path.write_bytes(data)
    os.utime(path, ns=times)
