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
from pathlib import Path

from ast_repr import atomic, cli, features, manifest, options, registry
from ast_repr.data import extraction, feature_store


def main(args: argparse.Namespace) -> None:
    """Extract the features of all configs."""
    atomic.sweep(args.data / "features")
    clips, _ = manifest.read(args.data)
    extracted = []
    for config in cli.confs(args, lacking=features.lacking(clips)).values():
        if config["feature"] not in extracted:
            extract(clips, config["feature"], args)
            extracted.append(config["feature"])


def extract(clips: list[manifest.Clip], settings: dict, args: argparse.Namespace) -> None:
    """Fill the store of one feature, or some of its shards, with what it lacks.

    Raises:
        ValueError: more clips cannot be decoded than may be left out.
    """
    folder = args.data / "features" / settings["name"]
    allow = registry.outside({"feature": settings})  # the author of a config may name any class
    feature = features.build(**registry.resolve("feature", settings, allow))
    shards = split_into_shards(clips)
    selected = dict(list(shards.items())[args.shard])
    print_changes(folder, selected)
    complete = set()
    left_out = {}
    for index, shard in selected.items():
        identities = manifest.identities(shard.values(), folder.name)
        if feature_store.holds(folder, index, identities, feature.spec()):
            complete.add(index)
            left_out |= feature_store.read_header(feature_store.shard_path(folder, index)).left_out
    if len(left_out) > args.allow_missing:  # they may have been fixed
        complete = {index for index in complete if not selected[index].keys() & left_out.keys()}
        left_out = {}
    todo = {index: shard for index, shard in selected.items() if index not in complete}
    if todo:
        fill(folder, args.data, feature, todo, args.nj, left_out, args.allow_missing)
        cli.refuse_missing(list(left_out.values()), args.allow_missing)
    remove_surplus_shards(folder, len(shards))
    state = "" if todo else " is up to date"
    stored = sum(len(shard) for shard in selected.values()) - len(left_out)
    print(f"{folder}{state}: {stored} clips")


def split_into_shards(clips: list[manifest.Clip]) -> dict[int, dict[str, manifest.Clip]]:
    """Split the clips into the shards of a store: {index: {name: clip}}."""
    shards = {}
    for number, clip in enumerate(clips):
        shards.setdefault(number // feature_store.SHARD_CLIPS, {})[clip.clip] = clip
    return shards


def print_changes(folder: Path, shards: dict[int, dict[str, manifest.Clip]]) -> None:
    """Print how many stored clips were computed from other audio than the manifest's."""
    expected = {}
    for shard in shards.values():
        expected |= manifest.identities(shard.values(), folder.name)
    changed = set()
    for header in feature_store.headers(folder):
        changed.update(header.changed(expected))
    if changed:
        print(f"{folder}: {len(changed)} clips have changed; their shards are computed again")


def fill(folder: Path, data: Path, *rest) -> None:
    """Compute shards; if a file has changed, let the next `prepare` hash all files again."""
    try:
        extraction.fill(folder, data, *rest)
    except extraction.SourceChangedError:
        manifest.forget_hashes(data)
        raise


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
