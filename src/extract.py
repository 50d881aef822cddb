"""Stage `extract`: each clip's feature, computed in parallel, into the store.

Resumes where it was interrupted. A shard is made again if it is damaged, or if the audio of one of
its clips has changed since. Machines share the work on one store by `--shard`: the second of four
makes each fourth shard, from the second on.
"""

if __name__ == "__main__":
    from ast_repr import cli

    cli.guard_imports()

import argparse
import json
import re
from pathlib import Path

from ast_repr import atomic, audio, cli, escaping, features, manifest, registry
from ast_repr.data import extraction, feature_store

LISTED = 10  # unreadable clips named in an error


def main(args):
    atomic.sweep(Path(args.data) / "features")
    clips, _ = manifest.read(args.data)
    confs = cli.confs(args, lacking=features.lacking(clips)).values()
    for feature in {
        json.dumps(conf.feature.to_dict(), sort_keys=True): conf.feature.to_dict() for conf in confs
    }.values():
        extract(Path(args.data), clips, feature, args.nj, args.allow_missing, args.shard)


def extract(data, clips, settings, nj, allowed, part):
    """Fill the store of one feature, or a part of its shards, with what it lacks.

    Clips whose audio cannot be decoded are left out if there are no more than `allowed`.
    """
    folder = data / "features" / settings["name"]
    allow = registry.outside({"feature": settings})  # whoever writes a config may name any class
    feature = features.build(**registry.resolve("feature", settings, allow))
    shards = [
        clips[start : start + feature_store.SHARD_CLIPS]
        for start in range(0, len(clips), feature_store.SHARD_CLIPS)
    ]
    own = {index: {clip.clip: clip for clip in shards[index]} for index in range(len(shards))[part]}
    identities = {
        index: manifest.identities(shard.values(), folder.name) for index, shard in own.items()
    }
    whole = {i for i in own if feature_store.holds(folder, i, identities[i], feature.spec())}
    say_what_changed(folder, identities.values())
    left_out = {}
    for index in whole:
        left_out |= feature_store.read_header(feature_store.shard_path(folder, index)).left_out
    if len(left_out) > allowed:  # they may have been mended
        whole = {index for index in whole if not own[index].keys() & left_out.keys()}
        left_out = {}
    todo = {index: shard for index, shard in own.items() if index not in whole}
    if todo:
        fill(folder, data, feature, todo, nj, left_out, allowed)
        refuse_too_many(left_out, allowed)
    for stale in folder.glob("shard-*.h5"):
        if stale.name >= feature_store.shard_path(folder, len(shards)).name:
            stale.unlink(missing_ok=True)  # of a larger manifest
    state = "" if todo else " is up to date"
    print(f"{folder}{state}: {sum(map(len, own.values())) - len(left_out)} clips")


def say_what_changed(folder, shards):
    """Print how many clips' features were computed from something else than the manifest now says.

    Args:
        shards: {clip: identity} of each.
    """
    expected = {}
    for identities in shards:
        expected |= identities
    changed = set()
    for header in feature_store.headers(folder):
        changed.update(header.changed(expected))
    if changed:
        print(f"{folder}: {len(changed)} clips have changed since; their shards are made again")


def fill(folder, data, *rest):
    """`extraction.fill`; if a file has changed, the next `prepare` hashes all of them again."""
    try:
        extraction.fill(folder, data, *rest)
    except extraction.SourceChangedError:
        manifest.forget_hashes(data)
        raise


def refuse_too_many(left_out, allowed):
    if len(left_out) > allowed:
        for reason in list(left_out.values())[:LISTED]:
            print(escaping.terminal(f"  {reason}"))
        more = f" (the first {LISTED} are listed above)" if len(left_out) > LISTED else ""
        raise audio.AudioError(
            f"{len(left_out)} clips cannot be decoded{more}; mend them, or go on without them by "
            f"--allow-missing {len(left_out)}"
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
    parser = cli.parser(__doc__)
    parser.add_argument(
        "--data", required=True, help="folder with the manifest; the store is made in it"
    )
    cli.add_conf_options(parser)
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
    cli.run(main, parse())
