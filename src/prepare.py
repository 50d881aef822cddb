"""Stage `prepare`: a corpus becomes a manifest, with a validation split of train clips that keeps groups (artists) whole.

Nothing is done again where the manifest is there and counts what the corpus has. With --check, a CSV of own data is
looked through instead: all that is wrong with it is listed, and what is in it is counted.
"""

import shlex
from pathlib import Path

from ast_repr import command, escaping, manifest
from ast_repr.corpora import custom, openmic, synthetic

VALID_FRACTION, VALID_SEED = 0.15, 20181
LISTED = 10  # unreadable clips, or problems of a CSV, named where the stage ends with an error


def main(args):
    if args.check:
        check(args.check)
        return
    if missing := [
        f"--{name}" for name in ("corpus", "root", "data") if getattr(args, name) is None
    ]:
        raise command.UsageError(
            f"no {', '.join(missing)}; expected --corpus, --root and --data, or --check CSV"
        )
    root, data = Path(args.root), Path(args.data)
    data.mkdir(parents=True, exist_ok=True)
    own = args.corpus == "custom"
    clips, classes, bad = read_custom(root, data) if own else read_openmic(root, data, args)
    clips = with_validation(drop_unreadable(clips, bad, args.allow_missing))
    manifest.check(clips, classes)
    described = summary(clips, classes, "groups" if own else "artists")
    if (data / "manifest.jsonl").is_file() and (clips, classes) == manifest.read(data):
        print(f"{data}/manifest.jsonl is up to date: {described}")
    else:
        manifest.write(data, clips, classes)
        print(f"{data}/manifest.jsonl: {described}")


def read_openmic(root, data, args):
    """(clips, classes, {clip: what is wrong with its audio}) of a folder in OpenMIC-2018's layout; the built-in corpus is made first."""
    if args.corpus == "synthetic":
        synthetic.make(root, args.clips, nj=args.nj)
    clips, classes = openmic.clips(root, relative_to=data)
    if args.genuine:
        check_counts(clips)
    return (
        clips,
        classes,
        {
            name: f"{openmic.audio_path(root, name)}: {reason}"
            for name, reason in openmic.unreadable(root, clips)
        },
    )


def read_custom(path, data):
    """The same of a CSV of own data; one that has problems is refused."""
    table = custom.read(path, relative_to=data)
    problems = find_problems(table)
    for problem in problems[:LISTED]:
        print(escaping.terminal(f"  {line(*problem)}"))
    if problems:
        remedy = f"mend them; python src/prepare.py --check {shlex.quote(str(path))} lists them all"
        raise manifest.ManifestError(
            f"{path}: {counted(problems, 'problem')}, {min(LISTED, len(problems))} listed above; {remedy}"
        )
    return (
        table.clips,
        table.classes,
        {
            name: line(table.rows[name], f"{name}: {reason}")
            for name, reason in custom.unreadable(data, table.clips)
        },
    )


def check(path):
    """List all that is wrong with a CSV of own data and its audio, and count what is in it."""
    table = custom.read(path, relative_to=path.parent)
    problems = find_problems(table) + [
        (table.rows[name], f"{name}: {reason}")
        for name, reason in custom.unreadable(path.parent, table.clips)
    ]
    listed = [f"  {line(*problem)}" for problem in problems]
    counted_lines = counts(with_validation(table.clips), table.classes)
    print("\n".join(map(escaping.terminal, [*listed, *counted_lines])))
    if problems:
        raise manifest.ManifestError(
            f"{path}: {counted(problems, 'problem')}, listed above; mend and check again"
        )
    print(
        f"{path} is in order; bash egs/custom/run.sh --manifest {shlex.quote(str(path))} trains on it"
    )


def find_problems(table):
    """What is wrong with a CSV, its audio excepted: list of (row or None, reason)."""
    if table.problems or any(clip.split == "valid" for clip in with_validation(table.clips)):
        return table.problems
    return [
        (
            None,
            "no group of train can be spared for validation; expected more groups there, or rows whose split is valid",
        )
    ]


def line(row, reason):
    return reason if row is None else f"row {row}: {reason}"


def counted(things, name):
    return f"{len(things)} {name}{'s' * (len(things) != 1)}"


def counts(clips, classes):
    """Lines that count the clips and groups of each split, then the labels of each class, and where they are observed."""
    width, out = max(map(len, ("split", "class", *classes))), [""]
    splits = {split: [clip for clip in clips if clip.split == split] for split in manifest.SPLITS}
    rows = [
        ("split", "clips", "groups"),
        *((split, len(own), len({clip.group for clip in own})) for split, own in splits.items()),
        (),
    ]
    rows.append(("class", "present", "absent", "unknown", *(f"in {split}" for split in splits)))
    for name in classes:
        values = [clip.labels[name] for clip in clips if name in clip.labels]
        present = sum(value >= manifest.PRESENT for value in values)
        observed = (sum(name in clip.labels for clip in own) for own in splits.values())
        rows.append((name, present, len(values) - present, len(clips) - len(values), *observed))
    out += [
        " ".join([f"{str(first):{width}}", *(f"{number:>9}" for number in rest)])
        for first, *rest in (row or ("",) for row in rows)
    ]
    return [*(text.rstrip() for text in out), ""]


def with_validation(clips):
    """The clips with a validation split: the corpus' own, or one that is drawn."""
    return (
        clips
        if any(clip.split == "valid" for clip in clips)
        else manifest.split_validation(clips, VALID_FRACTION, VALID_SEED)
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
    """Leave out clips without usable audio, {name: reason}, if there are no more than `allowed` of them."""
    if len(bad) > allowed:
        for reason in list(bad.values())[:LISTED]:
            print(escaping.terminal(f"  {reason}"))
        more = f" (the first {LISTED} are listed above)" if len(bad) > LISTED else ""
        raise manifest.ManifestError(
            f"{len(bad)} of {len(clips)} clips have no usable audio{more}; mend them, or go on without them by --allow-missing {len(bad)}"
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
        f"{len(values)} of {cells} labels observed ({len(values) / cells:.1%}), {present / len(values):.0%} of them present"
    )
    return "; ".join(parts)


def parse():
    parser = command.parser(__doc__)
    parser.add_argument("--corpus", choices=("synthetic", "openmic", "custom"))
    parser.add_argument(
        "--root",
        help="folder in OpenMIC-2018's layout (made here for the synthetic corpus); custom: the CSV",
    )
    parser.add_argument("--data", help="folder for the manifest")
    parser.add_argument(
        "--clips", type=int, default=synthetic.CLIPS, help="size of the synthetic corpus"
    )
    parser.add_argument(
        "--genuine",
        action="store_true",
        help="the root is the published archive: insist on its counts",
    )
    parser.add_argument("--nj", type=int, default=1, help="processes")
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
    command.run(main, parse())
