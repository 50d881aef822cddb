"""Stage `extract`: each clip's feature, computed in parallel, into the store. Goes on where it was interrupted.

Machines share the work on one store by `--shard`: the second of four makes each fourth shard, from the second on.
"""

import argparse
import json
import re
from pathlib import Path

from ast_repr import audio, command, escaping, extraction, features, manifest, rooms, store

LISTED = 10  # unreadable clips named in an error


def main(args):
    clips, _ = manifest.read(args.data)
    confs = command.confs(args, lacking=features.lacking(args.data, clips)).values()
    for feature in {
        json.dumps(conf["feature"], sort_keys=True): conf["feature"] for conf in confs
    }.values():
        extract(Path(args.data), clips, feature, args.nj, args.allow_missing, args.shard)


def extract(data, clips, settings, nj, allowed, part):
    """Fill the store of one feature, or a part of its shards, with what it lacks; clips whose audio cannot be decoded are left out
    if there are no more than `allowed`."""
    folder = data / "features" / settings["name"]
    allow = rooms.outside({"feature": settings})  # whoever writes a config may name any class
    feature = features.build(**rooms.resolve("feature", settings, allow))
    shards = [
        clips[start : start + store.SHARD_CLIPS]
        for start in range(0, len(clips), store.SHARD_CLIPS)
    ]
    own = {index: {clip.clip: clip for clip in shards[index]} for index in range(len(shards))[part]}
    left_out = {
        clip: reason
        for clip, reason in store.left_out(folder).items()
        if any(clip in shard for shard in own.values())
    }
    again = left_out.keys() if len(left_out) > allowed else set()  # they may have been mended
    todo = {
        i: shard
        for i, shard in own.items()
        if not store.holds(folder, i, list(shard), feature.spec()) or shard.keys() & again
    }
    if todo:
        left_out = {
            clip: reason
            for clip, reason in left_out.items()
            if not any(clip in shard for shard in todo.values())
        }
        extraction.fill(folder, data, feature, todo, nj, left_out, allowed)
        refuse_too_many(left_out, allowed)
    for stale in folder.glob("shard-*.h5"):
        if stale.name >= store.shard_path(folder, len(shards)).name:
            stale.unlink(missing_ok=True)  # of a larger manifest
    print(
        f"{folder}{'' if todo else ' is up to date'}: {sum(map(len, own.values())) - len(left_out)} clips"
    )


def refuse_too_many(left_out, allowed):
    if len(left_out) > allowed:
        for reason in list(left_out.values())[:LISTED]:
            print(escaping.terminal(f"  {reason}"))
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
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected a part and the number of parts, such as 2/4"
        )
    return slice(int(found[1]) - 1, None, int(found[2]))


def parse():
    parser = command.parser(__doc__)
    parser.add_argument(
        "--data", required=True, help="folder with the manifest; the store is made in it"
    )
    command.add_conf_options(parser)
    parser.add_argument("--nj", type=int, default=1, help="processes")
    parser.add_argument(
        "--allow-missing",
        type=int,
        default=0,
        help="clips without usable audio that may be left out, with --shard of each part",
    )
    parser.add_argument(
        "--shard",
        type=part,
        default=slice(None),
        metavar="I/N",
        help="only part I of N of the shards; other processes make the others",
    )
    return parser


if __name__ == "__main__":
    command.run(main, parse())
