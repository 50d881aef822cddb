"""Instruments of one's own music: files, folders and patterns in, each file's instruments with their probabilities out.

    python src/predict.py ~/music                               # with the newest run that is finished
    python src/predict.py --model egs/openmic/exp/synthetic/ast_unet/seed0 --timeline --plot pictures song.mp3 "more/*.flac"
    python src/predict.py --format csv --output found.csv --threshold 0.3 ~/music
    python src/predict.py --model shared/ast_unet ~/music       # what src/export.py wrote: the folder, or a file of it

wav, flac, ogg and mp3 of any rate, number of channels and length. Files are heard in windows of ten seconds. One that
cannot be read is left out, and listed at the end; the exit code is then 1.
"""

import contextlib
import glob
import itertools
import os
import re
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ast_repr import audio, command, files, inference, runs
from ast_repr import device as devices
from ast_repr.report import predictions, song

ROOT = Path(__file__).resolve().parents[1]
SUFFIXES = {
    ".wav",
    ".flac",
    ".ogg",
    ".oga",
    ".opus",
    ".mp3",
    ".aif",
    ".aiff",
}  # of what is taken from a folder
AGGREGATES = {"mean": np.mean, "max": np.max}


def main(args):
    paths = find(args.paths)
    source = newest_run(ROOT / "egs") if args.model is None else args.model
    model = inference.load(source, devices.choose(args.device), args.backbone_file)
    threshold = model.threshold if args.threshold is None else args.threshold
    view, failed = predictions.View(model.classes, threshold, args.top, args.timeline), []
    print(f"model: {source}", file=sys.stderr)
    with (
        output(args.output) as out,
        tqdm(disable=None, bar_format="{desc}{n:.1f} min of sound [{elapsed}]") as bar,
    ):
        for text in predictions.FORMATS[args.format](
            hear(model, paths, view, failed, bar, args), view
        ):
            with tqdm.external_write_mode(out):
                out.write(text)
                out.flush()
    if failed:
        for reason in failed:
            print(f"  {reason}", file=sys.stderr)
        raise audio.AudioError(
            f"{len(failed)} of {len(paths)} files cannot be read, as listed above; the others are done"
        )


def hear(model, paths, view, failed, bar, args):
    """A `predictions.Song` for each path, in order; what is wrong with the others goes to `failed`, pictures to where they are wanted."""
    pictures, hop = set(), round(args.hop * audio.SAMPLE_RATE)
    for done, (path, parts) in enumerate(
        itertools.groupby(model.listen(paths, hop, args.batch_size), lambda heard: heard.path)
    ):
        bar.set_description_str(f"file {done + 1} of {len(paths)}: ", refresh=False)
        times, timeline, log_mel, error = [], [], song.LongLogMel(), None
        for heard in parts:
            if heard.error:
                error = command.one_line(heard.error)
                failed.append(error)
                break
            bar.update((heard.end_s - (times[-1][1] if times else 0.0)) / 60)
            times.append((heard.start_s, heard.end_s))
            timeline.append(heard.probabilities)
            if args.plot:
                log_mel.add(heard.start_s, heard.end_s, heard.feature[0])
        if error:
            yield predictions.Song(str(path), error=error)
            continue
        found = predictions.Song(
            str(path),
            times[-1][1],
            np.array(times),
            np.array(timeline),
            AGGREGATES[args.aggregate](timeline, axis=0),
        )
        if args.plot:
            song.save(song.draw(found, view, log_mel), args.plot / picture_name(path, pictures))
        yield found


def find(given):
    """The files that are meant, each once: folders with all that is below them, patterns that no file is called by.

    What is not there stays in the list, to be reported with what else cannot be read; so does a folder without audio.
    """
    found = []
    for path in given:
        names = (
            [path] if os.path.lexists(path) else sorted(glob.glob(path, recursive=True)) or [path]
        )
        for one in map(Path, names):
            inside = [
                p
                for p in sorted(one.rglob("*"))
                if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and not p.is_dir()
            ]
            found += inside or [one]
    once = {}
    for path in found:
        once.setdefault(os.path.abspath(path), path)
    return list(once.values())


def newest_run(egs):
    """The folder of the run that was scored last, of those that hear sound.

    Raises:
        ValueError: there is none.
    """
    if found := runs.finished(egs.glob("*/exp")):
        return found[0]
    raise ValueError(
        f"no finished run under {egs}/*/exp; make one by: bash {egs}/openmic/run.sh, or name one by --model"
    )


@contextlib.contextmanager
def output(path):
    """A file object to write to: `path`, which is replaced once all is written unless it is a device or pipe; or else the standard output."""
    if path is None:
        sys.stdout.reconfigure(
            errors="backslashreplace"
        )  # a file's name may hold what the terminal cannot show
        try:
            yield sys.stdout
        except (
            BrokenPipeError
        ):  # who reads has seen enough, as `head` does; nothing may be flushed to there any more
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    else:
        whole = (
            files.replacing(path)
            if path.is_file() or not path.exists()
            else contextlib.nullcontext(path)
        )
        with (
            whole as place,
            open(place, "w", encoding="utf-8", errors="backslashreplace", newline="") as out,
        ):
            yield out


def picture_name(path, taken):
    """The name of a song's picture; one that is taken already gets a number."""
    stem = name = re.sub(r"[^\w.+=-]+", "_", path.stem)[:60]
    numbers = itertools.count(1)
    while name in taken:
        name = f"{stem}-{next(numbers)}"
    taken.add(name)
    return f"{name}.png"


def parse():
    parser = command.parser(__doc__)
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="files, folders (all audio below them), patterns such as '*.mp3'",
    )
    parser.add_argument(
        "--model",
        help="a run folder, a checkpoint, or what src/export.py wrote; default: the newest finished run",
    )
    parser.add_argument(
        "--backbone-file",
        type=Path,
        metavar="FILE",
        help="the backbone's weights, if they are not where the model looks for them",
    )
    parser.add_argument("--format", choices=tuple(predictions.FORMATS), default="table")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write there, not on the screen"
    )
    parser.add_argument(
        "--threshold",
        type=command.between(float, 0, 1),
        help="the least probability that is shown; default: the model's own",
    )
    parser.add_argument(
        "--top", type=command.between(int, 1), metavar="K", help="at most K instruments of a file"
    )
    parser.add_argument(
        "--timeline", action="store_true", help="the probabilities of each window as well"
    )
    parser.add_argument(
        "--hop",
        type=command.between(float, 0.1, 3600),
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
        help="write a picture of each song there: time against instruments, and the log-mel",
    )
    parser.add_argument(
        "--batch-size",
        type=command.between(int, 1),
        default=16,
        help="windows at once; the results do not depend on it",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    return parser


if __name__ == "__main__":
    command.run(main, parse())
