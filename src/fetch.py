"""Stage `fetch`: choose a corpus and a backbone, and make sure that both are on disk.

Prints one line for the recipe: corpus, name, root (a CSV for custom data), backbone and weight
file, separated by tabs; messages go to stderr. Large files are only downloaded if they were asked
for by name. A corpus is named after its folder or CSV; a second one of the same name is refused
while the first exists.
"""

if __name__ == "__main__":
    from ast_repr import cli

    cli.guard_imports()

import argparse
import os
import sys
from pathlib import Path

from ast_repr import choices, cli, options, pretrained
from ast_repr.corpora import irmas, magnatagatune, naming, openmic

SHIPPED = "ast_tiny_synth"
PUBLISHED = "ast_audioset"
BUILT_IN = {  # in a published corpus' layout: (size, the published corpus and its download)
    "irmas_synthetic": ("1,800 excerpts", "IRMAS, several GB"),
    "magnatagatune_synthetic": ("1,700 clips", "MagnaTagATune, 3 GB"),
}
LAYOUTS = {"irmas": "IRMAS'", "magnatagatune": "MagnaTagATune's", "openmic": "OpenMIC-2018's"}


def main(args: argparse.Namespace) -> None:
    """Print the corpus and the backbone."""
    corpus = choose_corpus(args)
    if args.teacher_file:
        pretrained.add_file(args.teacher_file)
    backbone = choose_backbone(args)
    weights = fetch_backbone(backbone, args.backbone_file)
    if args.panns or args.panns_file:
        pretrained.fetch_panns(args.panns_file)
    name, root = fetch_corpus(corpus, args)
    naming.claim(args.data / name, root)
    fields = [corpus, name, str(root), backbone, str(weights)]
    for field in fields:
        if not field.isprintable():
            raise ValueError(f"{field!r}: a path with control characters; rename it")
    print("\t".join(fields))


def choose_corpus(args: argparse.Namespace) -> str:
    """Choose one of choices.CORPORA; for a default, say why.

    Raises:
        UsageError: contradictory options.
        FileNotFoundError: there is no such CSV.
    """
    if args.manifest:
        if args.corpus not in ("auto", "custom"):
            raise cli.UsageError(f"--manifest and --corpus {args.corpus}: expected one of them")
        if not args.manifest.is_file():
            raise FileNotFoundError(
                f"{args.manifest}: no such file; expected a CSV with a path and a column per class"
            )
        return "custom"
    if args.corpus == "custom":
        raise cli.UsageError("no --manifest: --corpus custom expects one")
    if args.corpus == "synthetic" and args.data_root:
        raise cli.UsageError("--corpus synthetic takes no --data-root; leave one of them out")
    if args.corpus in BUILT_IN:
        return choose_layout(args)
    if args.corpus != "auto":
        return args.corpus
    root = args.data_root or args.data / "openmic-2018"
    if args.data_root or openmic.is_unpacked(root):
        say(f"corpus: openmic, in {root} (the built-in one: --corpus synthetic)")
        return "openmic"
    size = openmic.ARCHIVE.bytes / 1e9
    say(
        f"corpus: synthetic, {args.clips} clips made here (OpenMIC-2018, {size:.1f} GB to "
        "download: --corpus openmic; already on disk: --data-root DIR)"
    )
    return "synthetic"


def choose_layout(args: argparse.Namespace) -> str:
    """Choose a built-in corpus, or the published one whose layout it has if that is on disk."""
    published = args.corpus.removesuffix("_synthetic")
    if args.data_root:
        say(f"corpus: {published}, in {args.data_root}")
        return published
    size, download = BUILT_IN[args.corpus]
    say(
        f"corpus: {args.corpus}, {size} made here ({download} to download: --corpus {published}; "
        "already on disk: --data-root DIR)"
    )
    return args.corpus


def choose_backbone(args: argparse.Namespace) -> str:
    """Choose a backbone by name; for auto, say why."""
    if args.backbone != "auto":
        return args.backbone
    if args.backbone_file:
        return args.backbone_file.stem
    published = pretrained.find(PUBLISHED)
    reproduces_paper = args.corpus == "openmic" and not args.data_root
    if published.is_available or reproduces_paper:
        say(f"backbone: {PUBLISHED}, the paper's (the small one: --backbone {SHIPPED})")
        return PUBLISHED
    say(
        f"backbone: {SHIPPED}, shipped (the paper's, {published.bytes / 1e6:.0f} MB to download: "
        f"--backbone {PUBLISHED}; a file on disk: --backbone-file FILE)"
    )
    return SHIPPED


def fetch_backbone(name: str, file: Path | None) -> Path:
    """Return the path of a backbone's weights, verified, after downloading them if necessary.

    Args:
        name: name of the backbone.
        file: the user's weight file, which is used as it is.

    Raises:
        OSError, RemoteError, ValueError: the file is missing, damaged or cannot be downloaded.
    """
    if file:
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no such file; expected weights")
        return file
    entry = pretrained.find(name)
    entry.fetch()
    return Path(os.path.relpath(entry.path))


def fetch_corpus(corpus: str, args: argparse.Namespace) -> tuple[str, Path]:
    """Return the corpus's name and its folder or CSV, after downloading it if necessary."""
    if corpus == "custom":
        return args.manifest.stem, args.manifest
    if corpus == "synthetic":
        name = "synthetic" if args.clips == options.CLIPS else f"synthetic-{args.clips}"
        return name, args.data / name / "openmic-2018"
    if corpus in BUILT_IN:
        root = args.data / corpus / corpus.removesuffix("_synthetic")
        return with_split(corpus, args), root
    if args.data_root:
        if not args.data_root.is_dir():
            raise NotADirectoryError(
                f"{args.data_root}: no such folder; expected {LAYOUTS[corpus]} layout"
            )
        name = args.data_root.resolve().name
        return with_split(name, args), args.data_root
    if corpus == "irmas":
        root = args.data / "irmas-1.0"
        if not irmas.is_unpacked(root):
            say(f"IRMAS: {irmas.size_to_download(root) / 1e9:.1f} GB to download ({irmas.LICENCE})")
        irmas.fetch(root)
        return corpus, root
    if corpus == "magnatagatune":
        root = args.data / "mtat"
        if not magnatagatune.is_unpacked(root):
            size = magnatagatune.size_to_download(root) / 1e9
            say(f"MagnaTagATune: {size:.1f} GB to download ({magnatagatune.LICENCE})")
        magnatagatune.fetch(root)
        return with_split(corpus, args), root
    root = args.data / "openmic-2018"
    openmic.fetch(root)
    return "openmic", root


def with_split(name: str, args: argparse.Namespace) -> str:
    """Append MagnaTagATune's split to the name of a corpus, unless it is the default."""
    return name if args.split == choices.TAG_SPLITS[0] else f"{name}-{args.split}"


def say(line: str) -> None:
    """Print a message to stderr; stdout is for the recipe."""
    print(line, file=sys.stderr)


def parse() -> cli.Parser:
    """Return the parser of the options."""
    parser = cli.parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder for corpora")
    options.add_corpus_options(parser, ("auto", *choices.CORPORA))
    options.add_clips_option(parser)
    options.add_split_option(parser)
    options.add_manifest_option(parser)
    options.add_backbone_options(parser, ("auto", *pretrained.names()))
    options.add_panns_options(parser)
    return parser


if __name__ == "__main__":
    cli.run(main, parse())
