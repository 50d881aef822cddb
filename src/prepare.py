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

from ast_repr import atomic, cli, escaping, identity, manifest
from ast_repr.corpora import custom, openmic, quality, synthetic

VALID_FRACTION, VALID_SEED = 0.15, 20181
LISTED = 10  # unreadable clips, or problems of a CSV, named where the stage ends with an error


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


def check(path):
    """List all that is wrong with a CSV of own data and its audio, and count what is in it."""
    table = custom.read(path, relative_to=path.parent)
    problems = find_problems(table)
    clips = with_validation(table.clips)
    hashes = audio_hashes(clips, path.parent)
    warnings = [] if problems else find_warnings(clips, table.classes, hashes)
    for name, reason in custom.unreadable(path.parent, table.clips, cli.warn):
        problems.append((table.rows[name], f"{name}: {reason}"))
    lines = [f"  note: {note}" for note in table.notes]
    lines += [f"  {line(*problem)}" for problem in problems]
    lines += counts(clips, table.classes)
    lines += [f"  warning: {warning}" for warning in warnings]
    print("\n".join(map(escaping.terminal, lines)))
    if problems:
        raise manifest.ManifestError(
            f"{path}: {counted(problems, 'problem')}, listed above; mend and check again"
        )
    state = f"in order, with {counted(warnings, 'warning')}" if warnings else "in order"
    print(
        f"{path} is {state}; "
        f"bash egs/custom/run.sh --manifest {shlex.quote(str(path))} trains on it"
    )


def find_problems(table):
    """What is wrong with a CSV, its audio excepted: list of (row or None, reason)."""
    if table.problems:
        return table.problems
    clips = with_validation(table.clips)
    if not any(clip.split == "valid" for clip in clips):
        lacking = "no group of train can be spared for validation"
        return [(None, f"{lacking}; expected more groups there, or rows whose split is valid")]
    return [(None, manifest.without_labels(split)) for split in manifest.unlabelled(clips)]


def find_warnings(clips, classes, hashes):
    """What of own data can be trained on but not trusted: sentences.

    Args:
        hashes: sha256 of each clip's audio file, None if it cannot be read.
    """
    warnings = quality.label_warnings(clips, classes)
    shared = quality.shared_audio_warnings(clips, hashes)
    if len(shared) > LISTED:
        shared = [*shared[:LISTED], f"{len(shared) - LISTED} more files are in several groups"]
    return warnings + shared


def audio_hashes(clips, folder):
    """sha256 of each clip's audio file below `folder`, None for a file that cannot be read."""
    known = {}
    for clip in clips:
        if clip.audio not in known:
            known[clip.audio] = audio_hash(folder / clip.audio)
    return [known[clip.audio] for clip in clips]


def audio_hash(path):
    """sha256 of a file, None if it cannot be read."""
    try:
        return identity.of_file(path)
    except (OSError, UnicodeError):  # the latter for a name that the locale cannot encode
        return None


def line(row, reason):
    return reason if row is None else f"row {row}: {reason}"


def counted(things, name):
    return f"{len(things)} {name}{'s' * (len(things) != 1)}"


def counts(clips, classes):
    """Lines that count the clips and groups of each split, and the labels of each class."""
    splits = {split: [clip for clip in clips if clip.split == split] for split in manifest.SPLITS}
    rows = [["split", "clips", "groups"]]
    for split, own in splits.items():
        rows.append([split, len(own), len({clip.group for clip in own})])
    rows.append([""])
    rows.append(["class", "present", "absent", "unknown", *(f"in {split}" for split in splits)])
    for name in classes:
        values = [clip.labels[name] for clip in clips if name in clip.labels]
        present = sum(value >= manifest.PRESENT for value in values)
        observed = [sum(name in clip.labels for clip in own) for own in splits.values()]
        rows.append([name, present, len(values) - present, len(clips) - len(values), *observed])
    width = max(len(first) for first, *_ in rows)
    lines = [""]
    for first, *rest in rows:
        cells = [f"{first:{width}}", *(f"{value:>9}" for value in rest)]
        lines.append(" ".join(cells).rstrip())
    return [*lines, ""]


def with_validation(clips):
    """The clips with a validation split: the corpus' own, or one that is drawn."""
    if any(clip.split == "valid" for clip in clips):
        return clips
    return manifest.split_validation(clips, VALID_FRACTION, VALID_SEED)


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
