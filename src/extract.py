"""Stage `extract`: each clip's feature, computed in parallel, into the store. Goes on where it was interrupted.

Machines share the work on one store by `--shard`: the second of four makes each fourth shard, from the second on.
"""

import argparse
import json
import math
import mmap
import re
import signal
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ast_repr import audio, command, features, launch, manifest, store

LISTED = 10  # unreadable clips named in an error


def main(args):
    clips, _ = manifest.read(args.data)
    confs = command.confs(args, lacking=features.lacking(args.data, clips)).values()
    for feature in {json.dumps(conf["feature"], sort_keys=True): conf["feature"] for conf in confs}.values():
        extract(Path(args.data), clips, feature, args.nj, args.allow_missing, args.shard)


def extract(data, clips, settings, nj, allowed, part):
    """Fill the store of one feature, or a part of its shards; clips whose audio cannot be decoded are left out if there are
    no more than `allowed`."""
    folder, feature = data / "features" / settings["name"], features.build(**settings)
    shards = [clips[start : start + store.SHARD_CLIPS] for start in range(0, len(clips), store.SHARD_CLIPS)]
    own = {index: {clip.clip: clip for clip in shards[index]} for index in range(len(shards))[part]}
    left_out = {clip: reason for clip, reason in store.left_out(folder).items() if any(clip in shard for shard in own.values())}
    again = left_out.keys() if len(left_out) > allowed else set()  # they may have been mended
    todo = {i: shard for i, shard in own.items() if not store.holds(folder, i, list(shard), feature.spec()) or shard.keys() & again}
    if todo:
        left_out = {clip: reason for clip, reason in left_out.items() if not any(clip in shard for shard in todo.values())}
        fill(folder, data, feature, todo, nj, left_out, allowed)
        refuse_too_many(left_out, allowed)
    for stale in folder.glob("shard-*.h5"):
        if stale.name >= store.shard_path(folder, len(shards)).name:
            stale.unlink(missing_ok=True)  # of a larger manifest
    print(f"{folder}{'' if todo else ' is up to date'}: {sum(map(len, own.values())) - len(left_out)} clips")


def fill(folder, data, feature, todo, nj, left_out, allowed):
    """Compute and write the shards `todo`, {index: {name: clip}}; clips without usable audio go to `left_out`, with the reason."""
    size, count = store.SHARD_CLIPS * math.prod(feature.shape), sum(map(len, todo.values()))
    rooms = np.frombuffer(mmap.mmap(-1, 4 * size), np.float16).reshape(2, store.SHARD_CLIPS, *feature.shape)  # shared with the workers
    with workers(nj, data, feature, rooms) as pool, tqdm(desc=f"extract {folder.name}", total=count, unit="clip") as bar:
        jobs = ([(turn % 2, row, clip) for row, clip in enumerate(shard.values())] for turn, shard in enumerate(todo.values()))
        computed = one_ahead(pool.map(compute, job, chunksize=4) for job in jobs)
        for turn, ((index, shard), reasons) in enumerate(zip(todo.items(), computed)):
            lacking = {}
            for name, reason in zip(shard, reasons):
                if reason:
                    lacking[name] = reason
                bar.update()
            left_out |= lacking
            if len(left_out) <= allowed or not lacking:
                rows = [row for row, name in enumerate(shard) if name not in lacking]
                values = rooms[turn % 2, rows] if lacking else rooms[turn % 2, : len(rows)]
                store.write_shard(folder, index, values, [name for name in shard if name not in lacking], feature.spec(), lacking)


@contextmanager
def workers(nj, *given):
    """A pool of `nj` processes; it ends with what is at hand where the work is broken off.

    Raises:
        RuntimeError: one of them was killed.
    """
    pool = ProcessPoolExecutor(nj, get_context("fork"), start_worker, given)  # torch is imported once, and has no threads yet
    try:
        yield pool
    except BrokenProcessPool as error:
        raise RuntimeError("a process was killed, most often for want of memory; what is done stays done, try a smaller --nj") from error
    finally:
        pool.shutdown(cancel_futures=True)


def one_ahead(items):
    """The items, each given once the next one is made: the workers compute a shard while one is written, and no more than that."""
    made = deque()
    for item in items:
        made.append(item)
        if len(made) == 2:
            yield made.popleft()
    yield from made


def start_worker(*given):
    """One thread for each process, Ctrl-C is the parent's to handle, and `compute` gets what all its calls share."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    launch.end_with_parent()
    torch.set_num_threads(1)
    compute.given = given


def compute(job):
    """Put one clip's feature (C, T, F) into its place in the shared memory; returns the reason if there is none."""
    (data, feature, rooms), (room, row, clip) = compute.given, job
    try:
        if hasattr(feature, "read"):  # it comes with the corpus
            value = feature.read(data / clip.audio)
        else:
            value = feature(torch.from_numpy(audio.fit(audio.decode(data / clip.audio, clip.start_s, audio.CLIP_SECONDS)))[None])[0]
    except (audio.AudioError, features.VGGishError) as error:
        return str(error)
    rooms[room, row] = value.half().numpy()
    return None


def refuse_too_many(left_out, allowed):
    if len(left_out) > allowed:
        for reason in list(left_out.values())[:LISTED]:
            print(f"  {reason}")
        more = f" (the first {LISTED} are listed above)" if len(left_out) > LISTED else ""
        raise audio.AudioError(
            f"{len(left_out)} clips cannot be decoded{more}; mend them, or go on without them by --allow-missing {len(left_out)}"
        )


def part(text):
    """The slice of a list of shards that `i/n` means.

    >>> list("abcdefg")[part("2/3")]
    ['b', 'e']
    """
    found = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", text, re.ASCII)
    if not found or int(found[1]) > int(found[2]):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a part and the number of parts, such as 2/4")
    return slice(int(found[1]) - 1, None, int(found[2]))


def parse():
    parser = command.parser(__doc__)
    parser.add_argument("--data", required=True, help="folder with the manifest; the store is made in it")
    command.add_conf_options(parser)
    parser.add_argument("--nj", type=int, default=1, help="processes")
    parser.add_argument("--allow-missing", type=int, default=0, help="clips without usable audio that may be left out")
    parser.add_argument("--shard", type=part, default=slice(None), metavar="I/N", help="only part I of N of the shards; other processes make the others")
    return parser


if __name__ == "__main__":
    command.run(main, parse())
