"""Stage `extract`: compute each clip's features in parallel and store them.

Resumes after an interruption. A shard is computed again if it is damaged, or if the audio of one of
its clips has changed. Several machines can fill one store: `--shard 2/4` computes every fourth
shard, starting with the second.
"""

if __name__ == "__main__":
    from ast_repr import cli

    cli.guard_imports()

import argparse
import re
from collections.abc import Iterable
from pathlib import Path

from ast_repr import atomic, cli, features, manifest, options, registry
from ast_repr.data import extraction, feature_store, windows


def main(args: argparse.Namespace) -> None:
    """Extract the features of all configs."""
    atomic.sweep(args.data / "features")
    clips, _ = manifest.read(args.data)
    extracted = []
    for conf in cli.confs(args, lacking=features.lacking(clips)).values():
        needed = [conf.feature]
        if conf.teacher is not None:
            needed.append(conf.teacher.feature)
        for feature in needed:
            if feature not in extracted:
                extract(clips, feature.to_dict(), args)
                extracted.append(feature)


def extract(clips: list[manifest.Clip], settings: dict, args: argparse.Namespace) -> None:
    """Fill the store of one feature, or some of its shards, with what it lacks.

    Raises:
        ValueError: more clips cannot be decoded than may be left out.
    """
    folder = args.data / "features" / settings["name"]
    allow = registry.outside({"feature": settings})  # the author of a config may name any class
    feature = features.build(**registry.resolve("feature", settings, allow))
    shards = split_into_shards(windows.of_clips(clips, features.window(feature)))
    selected = dict(list(enumerate(shards))[args.shard])
    print_changes(folder, selected.values())
    todo = {}
    left_out = {}
    for index, shard in selected.items():
        identities = manifest.identities(shard, folder.name)
        if feature_store.holds(folder, index, identities, feature.spec()):
            left_out |= feature_store.read_header(feature_store.shard_path(folder, index)).left_out
        else:
            todo[index] = shard
    if len(left_out) > args.allow_missing:  # they may have been fixed
        for index, shard in selected.items():
            if any(clip.clip in left_out for clip in shard):
                todo[index] = shard
        left_out = {}
    if todo:
        allowed = args.allow_missing - len(left_out)
        try:
            left_out |= extraction.fill(folder, args.data, feature, todo, args.nj, allowed)
        except extraction.SourceChangedError:
            manifest.forget_hashes(args.data)  # the next `prepare` hashes all files again
            raise
        cli.refuse_missing(list(left_out.values()), args.allow_missing)
    remove_surplus_shards(folder, len(shards))
    state = "" if todo else " is up to date"
    stored = sum(map(len, selected.values())) - len(left_out)
    print(f"{folder}{state}: {stored} clips")


def split_into_shards(clips: list[manifest.Clip]) -> list[list[manifest.Clip]]:
    """Split the clips into the shards of a store."""
    size = feature_store.SHARD_CLIPS
    return [clips[first : first + size] for first in range(0, len(clips), size)]


def print_changes(folder: Path, shards: Iterable[list[manifest.Clip]]) -> None:
    """Print how many stored clips were computed from other audio than the manifest's."""
    expected = {}
    for shard in shards:
        expected |= manifest.identities(shard, folder.name)
    changed = set()
    for header in feature_store.headers(folder):
        changed.update(header.changed(expected))
    if changed:
        print(f"{folder}: {len(changed)} clips have changed; their shards are computed again")


def remove_surplus_shards(folder: Path, count: int) -> None:
    """Remove the shards of a previous, larger manifest."""
    for path in folder.glob("shard-*.h5"):
        if path.name >= feature_store.shard_path(folder, count).name:
            path.unlink(missing_ok=True)


def part(text: str) -> slice:
    """Parse "i/n" as a slice of a list of shards.

    >>> list("abcdefg")[part("2/3")]
    ['b', 'e']
    """
    match = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", text, re.ASCII)
    if not match or int(match[1]) > int(match[2]):
        raise argparse.ArgumentTypeError(
            f"found {text!r}, expected a part and the number of parts, such as 2/4"
        )
    return slice(int(match[1]) - 1, None, int(match[2]))


def parse() -> cli.Parser:
    """Return the parser of the options."""
    parser = cli.parser(__doc__)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with the manifest; the store is in it"
    )
    cli.add_conf_options(parser)
    options.add_processing_options(parser)
    parser.add_argument(
        "--shard",
        type=part,
        default=slice(None),
        metavar="I/N",
        help="compute part I of N of the shards; --allow-missing then applies to each part",
    )
    return parser


if __name__ == "__main__":
    cli.run(main, parse())
