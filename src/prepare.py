"""Stage `prepare`: a corpus becomes a manifest, with a validation split of train clips grouped by artist.

Nothing is done again where the manifest is there and counts what the corpus has.
"""

from pathlib import Path

from ast_repr import command, manifest
from ast_repr.corpora import openmic, synthetic

VALID_FRACTION, VALID_SEED = 0.15, 20181
LISTED = 10  # unreadable clips named in an error


def main(args):
    root, data = Path(args.root), Path(args.data)
    data.mkdir(parents=True, exist_ok=True)
    if args.corpus == "synthetic":
        synthetic.make(root, args.clips, nj=args.nj)
    clips, classes = openmic.clips(root, relative_to=data)
    if args.genuine:
        check_counts(clips)
    clips = drop_unreadable(root, clips, args.allow_missing)
    clips = manifest.split_validation(clips, VALID_FRACTION, VALID_SEED)
    manifest.check(clips, classes)
    if (data / "manifest.jsonl").is_file() and (clips, classes) == manifest.read(data):
        print(f"{data}/manifest.jsonl is up to date: {summary(clips, classes)}")
    else:
        manifest.write(data, clips, classes)
        print(f"{data}/manifest.jsonl: {summary(clips, classes)}")


def check_counts(clips):
    """Refuse a genuine archive whose tables do not count what OpenMIC-2018 has."""
    found = {split: sum(clip.split == split for clip in clips) for split in ("train", "test")}
    found["observed"] = sum(len(clip.labels) for clip in clips)
    if found != openmic.COUNTS:
        raise manifest.ManifestError(f"OpenMIC-2018 counts {openmic.COUNTS}, found {found}; fetch the archive again")


def drop_unreadable(root, clips, allowed):
    """Leave out clips without usable audio, if there are no more than `allowed` of them."""
    bad = dict(openmic.unreadable(root, clips))
    if len(bad) > allowed:
        for name, reason in list(bad.items())[:LISTED]:
            print(f"  {openmic.audio_path(root, name)}: {reason}")
        more = f" (the first {LISTED} are listed above)" if len(bad) > LISTED else ""
        raise manifest.ManifestError(
            f"{len(bad)} of {len(clips)} clips have no usable audio{more}; mend them, or go on without them by --allow-missing {len(bad)}"
        )
    for name, reason in bad.items():
        print(f"  left out: {openmic.audio_path(root, name)}: {reason}")
    return [clip for clip in clips if clip.clip not in bad]


def summary(clips, classes):
    parts = []
    for split in manifest.SPLITS:
        own = [clip for clip in clips if clip.split == split]
        parts.append(f"{split} {len(own)} clips of {len({clip.group for clip in own})} artists")
    values = [value for clip in clips for value in clip.labels.values()]
    present = sum(value >= manifest.PRESENT for value in values)
    cells = len(clips) * len(classes)
    parts.append(f"{len(values)} of {cells} labels observed ({len(values) / cells:.1%}), {present / len(values):.0%} of them present")
    return "; ".join(parts)


def parse():
    parser = command.parser(__doc__)
    parser.add_argument("--corpus", choices=("synthetic", "openmic"), required=True)
    parser.add_argument("--root", required=True, help="folder in OpenMIC-2018's layout (made here for the synthetic corpus)")
    parser.add_argument("--data", required=True, help="folder for the manifest")
    parser.add_argument("--clips", type=int, default=synthetic.CLIPS, help="size of the synthetic corpus")
    parser.add_argument("--genuine", action="store_true", help="the root is the published archive: insist on its counts")
    parser.add_argument("--nj", type=int, default=1, help="processes")
    parser.add_argument("--allow-missing", type=int, default=0, help="clips without usable audio that may be left out")
    return parser


if __name__ == "__main__":
    command.run(main, parse())
