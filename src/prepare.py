"""Stage `prepare`: turn a corpus into a manifest, with a validation split that keeps groups whole.

The manifest is left as it is if it says what the corpus holds, the sha256 of each audio file
included. With --check, a CSV of own data is inspected instead: all that is wrong with it is listed,
what is in it is counted, and warnings say what can be trained on but not trusted.
"""

if __name__ == "__main__":
    from ast_repr import cli

    cli.guard_imports()

import shlex
from pathlib import Path

from ast_repr import atomic, cli, escaping, manifest
from ast_repr.commands.check import check
from ast_repr.corpora import custom, openmic, synthetic
from ast_repr.corpora.inspection import (
    LISTED,
    counted,
    find_problems,
    find_warnings,
    line,
    with_validation,
)


def main(args):
    if args.check:
        check(args.check)
        return
    if missing := [
        f"--{name}" for name in ("corpus", "root", "data") if getattr(args, name) is None
    ]:
        raise cli.UsageError(
            f"no {', '.join(missing)}; expected --corpus, --root and --data, or --check CSV"
        )
    root, data = Path(args.root), Path(args.data)
    data.mkdir(parents=True, exist_ok=True)
    atomic.sweep(data)
    own = args.corpus == "custom"
    if own:
        clips, classes, complaints = read_custom(root, data)
    else:
        clips, classes, complaints = read_openmic(root, data, args)
    clips = manifest.with_hashes(data, clips)
    checked = checked_before(data)
    bad = complaints([clip for clip in clips if audio_of(clip) not in checked])
    clips = with_validation(drop_unreadable(clips, bad, args.allow_missing))
    check_splits(root, clips)
    manifest.check(clips, classes)
    described = summary(clips, classes, "groups" if own else "artists")
    if own:
        for warning in find_warnings(clips, classes, [clip.sha256 for clip in clips]):
            print(f"  warning: {warning}")
    if is_up_to_date(data, clips, classes):
        print(f"{data}/manifest.jsonl is up to date: {described}")
    else:
        manifest.write(data, clips, classes)
        print(f"{data}/manifest.jsonl: {described}")


def checked_before(data):
    """Sound that is known to be usable: {(sha256, start)} of the clips of the manifest in `data`."""
    try:
        clips, _ = manifest.read(data)
    except manifest.ManifestError:
        return set()  # none yet, or damaged
    return {audio_of(clip) for clip in clips}


def audio_of(clip):
    """What decides whether a clip is usable."""
    return clip.sha256, clip.start_s


def is_up_to_date(data, clips, classes):
    """Whether the manifest in `data` is undamaged and says just this."""
    try:
        return manifest.read(data) == (clips, classes)
    except manifest.ManifestError:
        return False


def read_openmic(root, data, args):
    """Read a folder in OpenMIC-2018's layout; the built-in corpus is made first.

    Returns:
        (clips, classes, function from clips to {name: what is wrong with its audio})
    """
    if args.corpus == "synthetic":
        synthetic.make(root, args.clips, nj=args.nj)
    clips, classes = openmic.clips(root, relative_to=data)
    if args.genuine:
        check_counts(clips)

    def complaints(clips):
        bad = openmic.unreadable(root, clips, cli.warn)
        return {name: f"{openmic.audio_path(root, name)}: {reason}" for name, reason in bad}

    return clips, classes, complaints


def read_custom(path, data):
    """The same of a CSV of own data; one that has problems is refused."""
    table = custom.read(path, relative_to=data)
    problems = find_problems(table)
    for note in table.notes:
        print(f"  note: {note}")
    for problem in problems[:LISTED]:
        print(escaping.terminal(f"  {line(*problem)}"))
    if problems:
        remedy = f"mend them; python src/prepare.py --check {shlex.quote(str(path))} lists them all"
        listed = f"{min(LISTED, len(problems))} listed above"
        raise manifest.ManifestError(f"{path}: {counted(problems, 'problem')}, {listed}; {remedy}")

    def complaints(clips):
        bad = custom.unreadable(data, clips, cli.warn)
        return {name: line(table.rows[name], f"{name}: {reason}") for name, reason in bad}

    return table.clips, table.classes, complaints


def check_splits(root, clips):
    """Refuse a corpus without clips for training, validation or test."""
    lacking = [split for split in manifest.SPLITS if all(clip.split != split for clip in clips)]
    if lacking:
        raise manifest.ManifestError(
            f"{root}: no clip is in {' or '.join(lacking)}; "
            "expected more groups (artists), and clips in both train and test"
        )


def check_counts(clips):
    """Refuse a genuine archive whose tables do not count what OpenMIC-2018 has."""
    found = {split: sum(clip.split == split for clip in clips) for split in ("train", "test")}
    found["observed"] = sum(len(clip.labels) for clip in clips)
    if found != openmic.COUNTS:
        raise manifest.ManifestError(
            f"OpenMIC-2018 counts {openmic.COUNTS}, found {found}; fetch the archive again"
        )


def drop_unreadable(clips, bad, allowed):
    """Leave out clips without usable audio, {name: reason}, if these are at most `allowed`."""
    if len(bad) > allowed:
        for reason in list(bad.values())[:LISTED]:
            print(escaping.terminal(f"  {reason}"))
        more = f" (the first {LISTED} are listed above)" if len(bad) > LISTED else ""
        raise manifest.ManifestError(
            f"{len(bad)} of {len(clips)} clips have no usable audio{more}; "
            f"mend them, or continue without them by --allow-missing {len(bad)}"
        )
    for reason in bad.values():
        print(escaping.terminal(f"  left out: {reason}"))
    return [clip for clip in clips if clip.clip not in bad]


def summary(clips, classes, groups):
    """A line that counts; `groups`: what the corpus' groups are."""
    parts = []
    for split in manifest.SPLITS:
        own = [clip for clip in clips if clip.split == split]
        parts.append(f"{split} {len(own)} clips of {len({clip.group for clip in own})} {groups}")
    values = [value for clip in clips for value in clip.labels.values()]
    present = sum(value >= manifest.PRESENT for value in values)
    cells = len(clips) * len(classes)
    parts.append(
        f"{len(values)} of {cells} labels observed ({len(values) / cells:.1%}), "
        f"{present / len(values):.0%} of them present"
    )
    return "; ".join(parts)


def parse():
    parser = cli.parser(__doc__)
    parser.add_argument("--corpus", choices=("synthetic", "openmic", "custom"))
    parser.add_argument(
        "--root",
        help="folder in OpenMIC-2018's layout (synthetic: made here); custom: the CSV",
    )
    parser.add_argument("--data", help="folder for the manifest")
    parser.add_argument(
        "--clips",
        type=int,
        default=synthetic.CLIPS,
        help=f"size of the synthetic corpus, {synthetic.FEWEST_CLIPS} to {synthetic.MOST_CLIPS}",
    )
    parser.add_argument(
        "--genuine",
        action="store_true",
        help="the root is the published archive: insist on its counts",
    )
    parser.add_argument("--nj", type=cli.between(int, 1), default=1, help="processes")
    parser.add_argument(
        "--allow-missing",
        type=int,
        default=0,
        help="clips without usable audio that may be left out",
    )
    parser.add_argument(
        "--check",
        type=Path,
        metavar="CSV",
        help="say what is wrong with a CSV of own data, and what is in it; makes nothing",
    )
    return parser


if __name__ == "__main__":
    cli.run(main, parse())
