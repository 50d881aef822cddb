"""Predict the instruments of audio files, folders and patterns.

    ast-repr predict ~/music
    ast-repr predict --timeline --plot pictures song.mp3 "more/*.flac"
    ast-repr predict --format csv --output instruments.csv --threshold 0.3 ~/music
    ast-repr predict --model egs/openmic/exp/synthetic/ast_unet/seed0 ~/music
    ast-repr predict --shard 3/16 --format jsonl --output 3.jsonl --resume ~/library

Without --model, a shipped model names twenty instruments; its card in pretrained_models reports how
it was trained, its evaluation and its limitations.

Files may be of any audio format that FFmpeg reads, and of any sample rate, number of channels and
length. They are cut into windows of ten seconds; a silent window has no instruments. Damaged files
are read as far as possible, with a warning. Files that cannot be read are skipped and listed at the
end; the exit code is then 1. From folders, files with an audio suffix are taken; links are
followed. Any other file, such as a video with a sound track, can be named explicitly.

With --format jsonl, each file has a line of JSON. Its "settings" identify the model and options;
--resume refuses lines with others. Files that cannot be read have lines, too; remove these to try
the files again.
"""

import argparse
import contextlib
import fcntl
import glob
import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from .. import atomic, audio, cli, devices, identity, inference, pretrained
from ..viewer import predictions, timeline
from .common import add_device_option, add_model_options, say

# Suffixes of the files taken from folders: audio in formats that FFmpeg decodes.
# fmt: off
SUFFIXES = {
    ".3ga", ".aac", ".ac3", ".adts", ".aif", ".aifc", ".aiff", ".alac", ".amr", ".ape", ".au",
    ".caf", ".dff", ".dsf", ".dts", ".eac3", ".flac", ".m4a", ".m4b", ".m4r", ".mka", ".mp1",
    ".mp2", ".mp3", ".mpa", ".mpc", ".mpga", ".oga", ".ogg", ".opus", ".ra", ".shn", ".snd",
    ".spx", ".tak", ".tta", ".voc", ".w64", ".wav", ".wave", ".weba", ".wma", ".wv",
}
# fmt: on
NAMED = 3  # skipped files that the line about them names
SETTINGS_DIGITS = 12


def main(args: argparse.Namespace) -> None:
    """Predict all files and write the results as they come."""
    if args.resume:
        check_resume(args)
    library, skipped = collect_audio_files(args.paths)
    if skipped:
        say(describe_skipped(skipped))
    pictures = name_pictures(library, args.plot) if args.plot else {}
    paths = [path for path in library if is_in_shard(path, *args.shard)]
    if pictures:  # named before, so that shards choose different names
        pictures = {path: pictures[path] for path in paths}
    outputs = [args.output] if args.output else []
    replace = args.overwrite or args.resume
    atomic.refuse_to_replace([*outputs, *pictures.values()], replace, inputs=library)
    device = devices.choose(args.device)
    model = inference.load(args.model, device, args.backbone_file, args.allow_class, args.precision)
    name = f"{pretrained.DEFAULT_MODEL} (default of --model)" if args.model is None else args.model
    say(f"model: {name}, threshold {model.threshold:g}, {model.precision}")
    if "summary" in model.about:
        say(model.about["summary"])
    threshold = model.threshold if args.threshold is None else args.threshold
    settings = identify(model, threshold, args)
    view = predictions.DisplayOptions(model.classes, threshold, args.top, args.timeline, settings)
    errors = write_predictions(model, paths, view, pictures, args)
    if errors:
        for error in errors:
            say(f"  {error}")
        raise audio.AudioError(
            f"{len(errors)} of {len(paths)} files cannot be read, as listed above; "
            "the others are done"
        )


def check_resume(args: argparse.Namespace) -> None:
    """Refuse options that --resume cannot be combined with."""
    if args.format != "jsonl" or args.output is None:
        raise cli.UsageError("--resume appends JSON lines; pass --format jsonl and --output FILE")
    if args.overwrite or args.plot:
        raise cli.UsageError("--resume replaces nothing; pass it without --overwrite and --plot")
    if args.output.exists() and not args.output.is_file():
        raise cli.UsageError(f"--resume: {args.output} is no file; name one with --output")


def identify(model: inference.Predictor, threshold: float, args: argparse.Namespace) -> str:
    """Return a short sha256 of all that the result of a file depends on besides the file."""
    values = {
        "model": identity.of_file(model.path),
        "threshold": threshold,
        "top": args.top,
        "timeline": args.timeline,
        "hop_s": float(args.hop or model.window.hop_s),
        "aggregate": args.aggregate or model.aggregate,
        "precision": model.precision,
    }
    return identity.of_values(values)[:SETTINGS_DIGITS]


def write_predictions(
    model: inference.Predictor,
    paths: list[Path],
    view: predictions.DisplayOptions,
    pictures: dict[Path, Path],
    args: argparse.Namespace,
) -> list[str]:
    """Predict each path, write the result as soon as it is known, and draw its picture.

    With --resume, paths that have a line in the output are left out.

    Args:
        pictures: {path: that of its picture}; empty for none.

    Returns:
        The errors of files that cannot be read.
    """
    todo = paths
    errors = []
    log_mels = defaultdict(partial(timeline.LongLogMel, model.spec.feature["name"]))

    def on_window(window):
        bar.set_description_str(f"file {window.index + 1} of {len(todo)}", refresh=False)
        bar.update()
        if pictures:
            log_mels[window.path].add(window.start_s, window.end_s, window.feature[0])

    def predict():
        songs = model.predict(
            todo, args.hop, args.aggregate, args.batch_size, on_window, cli.warn, args.nj
        )
        for path, song in zip(todo, songs, strict=True):
            if song.error:
                errors.append(song.error)
            elif pictures:
                timeline.save(timeline.draw(song, view, log_mels.pop(path)), pictures[path])
            yield song

    with (
        open_output(args.output, args.resume) as out,
        tqdm(disable=None, unit="window", delay=1) as bar,
    ):
        if args.resume:
            done, length = predictions.read_jsonl(args.output, view.settings)
            out.truncate(length)
            todo = [path for path in paths if str(path) not in done]
            errors = [done[str(path)] for path in paths if done.get(str(path))]
            say(f"resumed: {len(paths) - len(todo)} of {len(paths)} files are done")
        for text in predictions.FORMATS[args.format](predict(), view):
            with tqdm.external_write_mode(out):
                out.write(text)
                out.flush()
    return errors


def collect_audio_files(arguments: list[str]) -> tuple[list[Path], list[Path]]:
    """Collect the files given, all audio below folders given, and the matches of patterns.

    A file that can be reached in several ways is taken once. A path that does not exist stays in
    the list, and so does a folder without audio: their errors are reported with those of
    unreadable files.

    Returns:
        (paths of audio files, paths of the other files in the folders).
    """
    audio_files = {}  # {real path: path by which it was reached first}
    others = {}
    for argument in arguments:
        names = [argument]
        if not os.path.lexists(argument):
            names = sorted(glob.glob(argument, recursive=True)) or names
        for name in names:
            files = list(files_below(name))
            taken = [path for path in files if path.suffix.lower() in SUFFIXES or path.is_dir()]
            for path in taken or [Path(name)]:
                audio_files.setdefault(os.path.realpath(path), path)
            for path in files:
                others.setdefault(os.path.realpath(path), path)
    skipped = [path for real, path in others.items() if real not in audio_files]
    return list(audio_files.values()), skipped


def files_below(folder: str) -> Iterator[Path]:
    """List the files below a folder, except hidden ones, sorted within each folder.

    Links are followed, but no folder is entered twice. A folder that cannot be listed is yielded
    itself.
    """
    if not os.path.isdir(folder):
        return
    entered = set()
    errors = []
    for parent, folders, names in os.walk(folder, onerror=errors.append, followlinks=True):
        real = os.path.realpath(parent)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(parent, name)
    for error in errors:
        yield Path(error.filename)


def is_in_shard(path: Path, index: int, count: int) -> bool:
    """Whether a path belongs to shard `index` of `count`, counted from 1.

    A hash of the path decides, so that a new file does not move others to another shard.
    """
    return int(identity.of_bytes(os.fsencode(path)), 16) % count == index - 1


def describe_skipped(paths: list[Path]) -> str:
    """Count the files of folders that have no audio suffix, in one line."""
    names = ", ".join(path.name for path in paths[:NAMED])
    more = ", ..." if len(paths) > NAMED else ""
    files = "1 file" if len(paths) == 1 else f"{len(paths)} files"
    return f"skipped: {files} without an audio suffix: {names}{more}"


@contextlib.contextmanager
def open_output(path: Path | None, resume: bool) -> Iterator[TextIO]:
    """Open the standard output (None), a device or pipe, or a file that appears once complete.

    With `resume`, open a file for further lines that appear at once.
    """
    write = partial(open, mode="w", encoding="utf-8", errors="backslashreplace", newline="")
    if path is None:
        # The name of a file may hold characters that the terminal cannot show.
        sys.stdout.reconfigure(errors="backslashreplace")
        yield sys.stdout
    elif resume:
        path.parent.mkdir(parents=True, exist_ok=True)
        with write(path, mode="a") as out:
            lock(out)
            yield out
    elif path.exists() and not path.is_file():
        with write(path) as out:
            yield out
    else:
        with atomic.replacing(path) as partial_path, write(partial_path) as out:
            yield out


def lock(file: TextIO) -> None:
    """Lock an open file for this process, as far as its file system supports that."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RuntimeError(
            f"{file.name}: another process is writing to it; wait for it, or name another file"
        ) from error
    except OSError:
        return


def name_pictures(paths: Iterable[Path], folder: Path) -> dict[Path, Path]:
    """Choose the path of each file's picture; files of the same name get numbers."""
    pictures = {}
    taken = set()
    for path in paths:
        stem = re.sub(r"[^\w.+=-]+", "_", path.stem)[:60]
        name = stem
        number = 0
        while name in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name)
        pictures[path] = folder / f"{name}.instruments.png"
    return pictures


def shard(text: str) -> tuple[int, int]:
    """Parse the option --shard.

    >>> shard("3/16")
    (3, 16)
    """
    match = re.fullmatch("([0-9]{1,9})/([0-9]{1,9})", text)
    index, count = map(int, match.groups()) if match else (0, 0)
    if not 1 <= index <= count:
        raise argparse.ArgumentTypeError(
            f"found {text!r}, expected I/N with I from 1 to N, such as 1/16"
        )
    return index, count


def parse() -> cli.Parser:
    """Return the parser of the options."""
    parser = cli.parser(__doc__)
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="files, folders (all audio below them), patterns such as '*.mp3'",
    )
    parser.add_argument(
        "--model",
        help="a run folder, a checkpoint, an exported model, or a shipped one, "
        f"{' or '.join(pretrained.MODELS)} (default: {pretrained.DEFAULT_MODEL})",
    )
    add_model_options(parser)
    parser.add_argument("--format", choices=tuple(predictions.FORMATS), default="table")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="write to this file; an existing one is refused without --overwrite",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="let --output and --plot replace existing files"
    )
    parser.add_argument(
        "--threshold",
        type=cli.between(float, 0, 1),
        help="the least probability that is shown; default: the model's",
    )
    parser.add_argument(
        "--top", type=cli.between(int, 1), metavar="K", help="at most K instruments per file"
    )
    parser.add_argument(
        "--timeline",
        action="store_true",
        help="print the probabilities of each window as well; in JSON, with the weights of its "
        "segments if the model has attention",
    )
    parser.add_argument(
        "--hop",
        type=cli.between(float, 0.1, 3600),
        help="seconds from one window to the next; default: the model's, 10 for most",
    )
    parser.add_argument(
        "--aggregate",
        choices=tuple(inference.AGGREGATES),
        help="how the probabilities of a file's windows are combined; default: the model's",
    )
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="DIR",
        help="write <song>.instruments.png for each song: instruments over time, weighted by the "
        "attention of models that have it, and the log-mel",
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "auto"),
        default="float32",
        help="auto: bfloat16 if the device computes in it, in 0.6 of the CPU time of the default "
        "model's network; its probabilities changed by up to 0.006 on 240 clips "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--nj",
        type=cli.between(int, 1),
        default=1,
        metavar="N",
        help="with N > 1, decode files in N processes ahead of the network (default: %(default)s)",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="append each file's line to --output at once, and skip files that have one already; "
        "after a kill, the same command continues",
    )
    parser.add_argument(
        "--shard",
        type=shard,
        default=(1, 1),
        metavar="I/N",
        help="predict part I of N of the files; N commands with I from 1 to N predict each once",
    )
    parser.add_argument(
        "--batch-size",
        type=cli.between(int, 1),
        default=16,
        help="windows per forward pass; the results do not depend on it",
    )
    add_device_option(parser)
    return parser
