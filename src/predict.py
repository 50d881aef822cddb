"""Instruments of one's own music: files, folders and patterns in, probabilities out.

    python src/predict.py ~/music                               # with the best run that is finished
    python src/predict.py --model egs/openmic/exp/synthetic/ast_unet/seed0 ~/music
    python src/predict.py --timeline --plot pictures song.mp3 "more/*.flac"
    python src/predict.py --format csv --output found.csv --threshold 0.3 ~/music
    python src/predict.py --model shared/ast_unet ~/music       # what src/export.py wrote

Files may be of any audio format that FFmpeg reads, rate, number of channels and length. They are
cut into windows of ten seconds; a silent window has no instruments. Damaged files are read as far
as they go, with a warning. What cannot be read is left out and listed at the end; the exit code is
then 1. From folders, files with a suffix of audio are taken; links in them are followed. Any other
file, such as a video with a sound track, can be named itself.
"""

if __name__ == "__main__":
    from ast_repr import cli

    cli.guard_imports()

import contextlib
import glob
import itertools
import os
import re
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ast_repr import atomic, audio, cli, devices, escaping, inference, runs
from ast_repr.viewer import predictions, timeline

ROOT = Path(__file__).resolve().parents[1]
# Of the files that are taken from folders: audio alone, in formats that FFmpeg decodes.
# fmt: off
SUFFIXES = {
    ".3ga", ".aac", ".ac3", ".adts", ".aif", ".aifc", ".aiff", ".alac", ".amr", ".ape", ".au",
    ".caf", ".dff", ".dsf", ".dts", ".eac3", ".flac", ".m4a", ".m4b", ".m4r", ".mka", ".mp1",
    ".mp2", ".mp3", ".mpa", ".mpc", ".mpga", ".oga", ".ogg", ".opus", ".ra", ".shn", ".snd",
    ".spx", ".tak", ".tta", ".voc", ".w64", ".wav", ".wave", ".weba", ".wma", ".wv",
}
# fmt: on
NAMED = 3  # files that were passed over, in the line that counts them
AGGREGATES = {"mean": np.mean, "max": np.max}


def main(args):
    paths, others = collect_audio_files(args.paths)
    if others:
        say(passed_over(others))
    pictures = name_pictures(paths, args.plot) if args.plot else {}
    written = [*pictures.values(), *([args.output] if args.output else [])]
    atomic.refuse_to_replace(written, args.overwrite, inputs=paths)
    device = devices.choose(args.device)

    def load(source):
        return inference.load(source, device, args.backbone_file, args.allow_class)

    if args.model is None:
        model = best_model(ROOT / "egs", load)
    else:
        model = load(args.model)
        say(f"model: {args.model}")
    threshold = model.threshold if args.threshold is None else args.threshold
    view, failed = predictions.DisplayOptions(model.classes, threshold, args.top, args.timeline), []
    with (
        output(args.output) as out,
        tqdm(disable=None, bar_format="{desc}{n:.1f} min of sound [{elapsed}]") as bar,
    ):
        for text in predictions.FORMATS[args.format](
            predict_songs(model, paths, view, failed, pictures, bar, args), view
        ):
            with tqdm.external_write_mode(out):
                out.write(text)
                out.flush()
    if failed:
        for reason in failed:
            print(f"  {reason}", file=sys.stderr)
        raise audio.AudioError(
            f"{len(failed)} of {len(paths)} files cannot be read, as listed above; "
            "the others are done"
        )


def predict_songs(model, paths, view, failed, pictures, bar, args):
    """Yield a `predictions.FilePrediction` for each path, in order.

    Args:
        failed: list to which is added what is wrong with files.
        pictures: {path: where its picture goes}; empty for none.
    """
    hop = round(args.hop * audio.SAMPLE_RATE)
    for done, (path, parts) in enumerate(
        itertools.groupby(
            model.predict_files(paths, hop, args.batch_size, cli.warn), lambda window: window.path
        )
    ):
        bar.set_description_str(f"file {done + 1} of {len(paths)}: ", refresh=False)
        times, per_window, silent, log_mel, error = [], [], [], timeline.LongLogMel(), None
        for window in parts:
            if window.error:
                error = cli.one_line(window.error)
                failed.append(error)
                break
            bar.update((window.end_s - (times[-1][1] if times else 0.0)) / 60)
            times.append((window.start_s, window.end_s))
            per_window.append(window.probabilities)
            silent.append(window.silent)
            if args.plot:
                log_mel.add(window.start_s, window.end_s, window.feature[0])
        if error:
            yield predictions.FilePrediction(str(path), error=error)
            continue
        found = predictions.FilePrediction(
            str(path),
            times[-1][1],
            np.array(times),
            np.array(per_window),
            AGGREGATES[args.aggregate](per_window, axis=0),
            silent=np.array(silent),
        )
        if args.plot:
            timeline.save(timeline.draw(found, view, log_mel), pictures[path])
        yield found


def collect_audio_files(given):
    """Find the files that are meant: those given, all audio below folders, those that match patterns.

    Links are followed; a file that can be reached in several ways is taken once. What is not there
    stays in the list, to be reported with what else cannot be read; so does a folder without audio.

    Returns:
        (paths of audio files, paths of the other files in the folders).
    """
    wanted, others = {}, {}  # {real path: path by which it was reached first}
    for path in given:
        names = [path]
        if not os.path.lexists(path):
            names = sorted(glob.glob(path, recursive=True)) or [path]
        for name in names:
            files = list(below(name))
            audible = [path for path in files if path.suffix.lower() in SUFFIXES or path.is_dir()]
            for path in audible or [Path(name)]:
                wanted.setdefault(os.path.realpath(path), path)
            for path in files:
                others.setdefault(os.path.realpath(path), path)
    return list(wanted.values()), [path for real, path in others.items() if real not in wanted]


def below(folder):
    """Yield the files below a folder, without hidden ones, each folder's in order.

    Links are followed, but no folder is entered twice. One that cannot be listed is yielded itself.
    """
    if not os.path.isdir(folder):
        return
    entered, unlisted = set(), []
    for place, folders, names in os.walk(folder, onerror=unlisted.append, followlinks=True):
        real = os.path.realpath(place)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(place, name)
    for error in unlisted:
        yield Path(error.filename)


def passed_over(others):
    """A line that counts the files of folders whose names do not end as those of audio do."""
    names = ", ".join(escaping.terminal(path.name) for path in others[:NAMED])
    more = ", ..." if len(others) > NAMED else ""
    files = "1 file" if len(others) == 1 else f"{len(others)} files"
    return f"passed over: {files} without a suffix of audio: {names}{more}"


def best_model(egs, load):
    """The model of the finished run that is best on validation; a line says which, and why.

    Raises:
        ValueError: there is none that can be loaded.
    """
    found = runs.choose(egs.glob("*/exp"), load, say)
    if found is None:
        raise ValueError(
            f"no finished run under {egs}/*/exp that can be loaded; "
            f"make one by: bash {egs}/openmic/run.sh, or name one by --model"
        )
    run, model = found
    say(f"model: {run.folder}, {run.why}")
    return model


def say(line):
    print(escaping.terminal(line), file=sys.stderr)


@contextlib.contextmanager
def output(path):
    """Yield a text file: the standard output, a device or pipe, or one that appears when whole."""
    if path is None:
        # A file's name may hold what the terminal cannot show.
        sys.stdout.reconfigure(errors="backslashreplace")
        yield sys.stdout
        return
    whole = path.is_file() or not path.exists()
    with (
        atomic.replacing(path) if whole else contextlib.nullcontext(path) as place,
        open(place, "w", encoding="utf-8", errors="backslashreplace", newline="") as out,
    ):
        yield out


def name_pictures(paths, folder):
    """{path: where its picture goes}; songs of one name get numbers."""
    pictures, taken = {}, set()
    for path in paths:
        stem = name = re.sub(r"[^\w.+=-]+", "_", path.stem)[:60]
        numbers = itertools.count(1)
        while name in taken:
            name = f"{stem}-{next(numbers)}"
        taken.add(name)
        pictures[path] = folder / f"{name}.instruments.png"
    return pictures


def parse():
    parser = cli.parser(__doc__)
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="files, folders (all audio below them), patterns such as '*.mp3'",
    )
    parser.add_argument(
        "--model",
        help="a run folder, a checkpoint, or what src/export.py wrote; "
        "default: the finished run of the main job that is best on validation",
    )
    parser.add_argument(
        "--backbone-file",
        type=Path,
        metavar="FILE",
        help="the backbone's weights, if they are not where the model looks for them",
    )
    cli.add_allow_option(parser)
    parser.add_argument("--format", choices=tuple(predictions.FORMATS), default="table")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="write there, not on the screen; a file that is there is refused without --overwrite",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="let --output and --plot replace files that are there",
    )
    parser.add_argument(
        "--threshold",
        type=cli.between(float, 0, 1),
        help="the least probability that is shown; default: the model's own",
    )
    parser.add_argument(
        "--top", type=cli.between(int, 1), metavar="K", help="at most K instruments of a file"
    )
    parser.add_argument(
        "--timeline", action="store_true", help="the probabilities of each window as well"
    )
    parser.add_argument(
        "--hop",
        type=cli.between(float, 0.1, 3600),
        default=10.0,
        help="seconds from one window of ten seconds to the next (10)",
    )
    parser.add_argument(
        "--aggregate",
        choices=tuple(AGGREGATES),
        default="mean",
        help="a file's probabilities from those of its windows",
    )
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="DIR",
        help="write a picture of each song there, <song>.instruments.png: time against "
        "instruments, and the log-mel; one that is there is refused without --overwrite",
    )
    parser.add_argument(
        "--batch-size",
        type=cli.between(int, 1),
        default=16,
        help="windows at once; the results do not depend on it",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    return parser


if __name__ == "__main__":
    cli.run(main, parse())
