"""Stage `fetch`: which corpus and which backbone, and both of them at hand.

Prints one line for the recipe: corpus, name, root (for own data the CSV), backbone and weight file,
separated by tabs. What people want to know goes to stderr. Nothing large is downloaded unless it
was asked for by name. A corpus' name is its folder's or CSV's: a second one of the same name is
refused as long as the first is there.
"""

if __name__ == "__main__":
    from ast_repr import cli

    cli.guard_imports()

import json
import os
import sys
from pathlib import Path

from ast_repr import atomic, cli, pretrained
from ast_repr.corpora import openmic, remote

CLIPS = 1_000  # of the built-in corpus whose name has no number
ARCHIVE = "openmic-2018-v1.0.0.tgz"
SHIPPED, PUBLISHED = "ast_tiny_synth", "ast_audioset"
SOURCE = "source.json"  # in a corpus' folder: what it was prepared from


def main(args):
    corpus = choose_corpus(args)
    backbone = choose_backbone(args)
    weights = fetch_backbone(backbone, args.backbone_file)
    name, root = place_corpus(corpus, args)
    claim_name(args.data / name, root)
    fields = [corpus, name, str(root), backbone, str(weights)]
    if bad := [field for field in fields if not field.isprintable()]:
        raise ValueError(
            f"{bad[0]!r}: a path with control characters; expected one without, rename it"
        )
    print("\t".join(fields))


def choose_corpus(args):
    """openmic, synthetic or custom; for auto what is at hand, and a line that says so."""
    if args.manifest and args.corpus not in ("auto", "custom"):
        raise cli.UsageError(f"--manifest and --corpus {args.corpus}: expected one of them")
    if args.manifest and not args.manifest.is_file():
        raise FileNotFoundError(
            f"{args.manifest}: no such file; expected a CSV with path and a column for each class "
            "(--manifest)"
        )
    if args.corpus == "synthetic" and args.data_root:
        raise cli.UsageError(
            f"--corpus synthetic takes no --data-root, found {args.data_root}; "
            "leave one of them out"
        )
    if args.corpus != "auto":
        return args.corpus
    if args.data_root:
        say(f"corpus: openmic, in {args.data_root} (the built-in one: --corpus synthetic)")
        return "openmic"
    if unpacked(args.data):
        say(f"corpus: openmic, in {unpacked(args.data)} (the built-in one: --corpus synthetic)")
        return "openmic"
    size = f"{openmic.ARCHIVE.bytes / 1e9:.1f} GB"
    others = f"OpenMIC-2018, {size} to download: --corpus openmic; on disk already: --data-root DIR"
    say(f"corpus: synthetic, {args.clips} clips made here ({others})")
    return "synthetic"


def choose_backbone(args):
    """A name; for auto the best that is at hand or was asked for, and a line that says so."""
    if args.backbone != "auto":
        return args.backbone
    if args.backbone_file:
        return args.backbone_file.stem
    published, genuine = pretrained.find(PUBLISHED), args.corpus == "openmic" and not args.data_root
    if published.is_available or genuine:
        say(
            f"backbone: {PUBLISHED}, the paper's "
            f"(the small one that is shipped: --backbone {SHIPPED})"
        )
        return PUBLISHED
    size = f"{published.bytes / 1e6:.0f} MB"
    others = (
        f"the paper's, {size} to download: --backbone {PUBLISHED}; "
        "a file on disk: --backbone-file FILE"
    )
    say(f"backbone: {SHIPPED}, shipped ({others})")
    return SHIPPED


def fetch_backbone(name, file):
    """Path of the weights of backbone `name`, verified, and downloaded if they have to be.

    Args:
        file: the user's own, which is taken as it is; None if there is none.
    """
    if file:
        if not file.is_file():
            raise FileNotFoundError(
                f"{file}: no such file; expected weights of an AST (--backbone-file)"
            )
        return file
    entry = pretrained.find(name)
    place = Path(os.path.relpath(entry.path))
    if entry.url is not None:
        with remote.only_user_of(entry.path.parent):
            remote.download(remote.Remote(entry.url, entry.bytes, sha256=entry.sha256), entry.path)
    elif not entry.path.is_file():
        raise ValueError(f"{place}: missing; it is part of the repository: git checkout {place}")
    else:
        entry.verify()
    return place


def claim_name(folder, root):
    """Record what a corpus' folder is prepared from; refuse a second corpus of the same name.

    What was made or downloaded here is recorded by a relative path, so that the tree can be copied.
    If the recorded one is gone, the new one takes the name over.

    Raises:
        ValueError: another one, which is still there, has the name.
    """
    source = root.resolve()
    recorded = str(source)
    if source.is_relative_to(folder.parent.resolve()):
        recorded = os.path.relpath(source, folder.resolve())
    path = folder / SOURCE
    try:
        before = json.loads(path.read_text(encoding="utf-8"))["source"]
    except (OSError, ValueError, KeyError, TypeError):
        before = None  # new, or damaged
    if before == recorded:
        return
    if before is not None and (folder / before).exists():
        raise ValueError(
            f"{source}: the name {folder.name} is that of {before}; rename one of the two, or "
            f"delete {folder} and its experiments"
        )
    atomic.write_json(path, {"source": recorded})


def place_corpus(corpus, args):
    """(name of the experiments, folder in OpenMIC's layout or CSV), downloaded if need be."""
    if corpus == "custom":
        return args.manifest.stem, args.manifest
    if corpus == "synthetic":
        name = "synthetic" if args.clips == CLIPS else f"synthetic-{args.clips}"
        return name, args.data / name / "openmic-2018"
    if args.data_root:
        if not args.data_root.is_dir():
            raise NotADirectoryError(
                f"{args.data_root}: no such folder; expected OpenMIC-2018's layout (--data-root)"
            )
        return args.data_root.resolve().name, args.data_root
    if not unpacked(args.data):
        with remote.only_user_of(args.data):
            if not unpacked(args.data):  # nor by the process that was waited for
                archive = remote.download(openmic.ARCHIVE, args.data / ARCHIVE)
                remote.unpack(archive, args.data / "openmic-2018")
    return "openmic", args.data / "openmic-2018"


def unpacked(data):
    """Where the genuine corpus is, if it has been unpacked before."""
    return (data / "openmic-2018") if (data / "openmic-2018" / "partitions").is_dir() else None


def say(line):
    print(line, file=sys.stderr)


def parse():
    parser = cli.parser(__doc__)
    parser.add_argument(
        "--corpus", choices=("auto", "synthetic", "openmic", "custom"), default="auto"
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="folder for what is made or downloaded"
    )
    parser.add_argument(
        "--data-root", type=Path, help="a copy of OpenMIC-2018, or another corpus in its layout"
    )
    parser.add_argument("--manifest", type=Path, help="CSV of own data, for --corpus custom")
    parser.add_argument("--clips", type=int, default=CLIPS, help="size of the built-in corpus")
    parser.add_argument("--backbone", choices=("auto", *pretrained.names()), default="auto")
    parser.add_argument(
        "--backbone-file",
        type=Path,
        help="a weight file; without --backbone its name is the file's",
    )
    return parser


if __name__ == "__main__":
    cli.run(main, parse())
