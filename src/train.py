"""Stage `train`: one run for each conf and seed, from the feature store to a run folder.

The split called test is never opened here. A run that was interrupted goes on; one that is finished is left as it is;
one whose config has changed is refused, with the keys that differ. `--ngpu` gives a run several devices, or processes on
the CPU; started by torchrun, all of its processes share each run. `--dry-run` says what the runs would take.
"""

if __name__ == "__main__":
    from ast_repr import command

    command.guard_imports()

import hashlib
import shutil
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from torch import distributed
from tqdm import tqdm

from ast_repr import (
    batches,
    blueprint,
    command,
    config,
    estimate,
    experiment,
    features,
    files,
    launch,
    manifest,
    trainer,
)
from ast_repr import device as devices


def main(args):
    if distributed.is_torchelastic_launched() and (args.ngpu > 1 or args.jobs or args.dry_run):
        raise command.UsageError(
            "--ngpu, --jobs or --dry-run under torchrun, whose processes share each run: expected none of them; leave them out, or use python itself"
        )
    clips, classes = manifest.read(args.data)
    for folder in (Path(args.data) / "embeddings", Path(args.exp)):
        files.sweep(folder)
    confs, sources = possible(
        command.confs(args, lacking=features.lacking(args.data, clips)), classes, args
    )
    identity = {
        "corpus": Path(args.data).name,
        "manifest_sha256": sha256(Path(args.data) / "manifest.jsonl"),
        "backbone": args.backbone,
        "weights_sha256": sha256(args.weights),
    }
    runs = [
        conf | {"run": identity | {"conf": name, "seed": seed}}
        for name, conf in confs.items()
        for seed in args.seeds
    ]
    teams = devices.teams(args.device, args.ngpu, args.jobs, len(runs))
    if args.dry_run:
        foresee(
            runs[:: len(args.seeds)],
            stock_of(args, clips, classes, sources),
            teams[0][0],
            len(args.seeds),
        )
    else:
        launch.run(partial(work, args, sources), runs, teams)


def possible(confs, classes, args):
    """(confs, what heads by name read of the source's classes). Where the classes have no names among these, --conf all goes
    without such confs; asked for, they are an error."""
    by_name = [name for name, conf in confs.items() if blueprint.by_name(conf)]
    try:
        return confs, blueprint.source_groups(
            classes, args.backbone, args.weights
        ) if by_name else {}
    except ValueError as error:
        if args.conf != "all":
            raise
        for name in by_name:
            print(f"{name}: left out, {error}")
        return {name: conf for name, conf in confs.items() if name not in by_name}, {}


def work(args, sources, team, device, runs):
    """Train the runs one after the other, as one process of a team."""
    stock = stock_of(args, *manifest.read(args.data), sources)
    for conf in runs:
        folder = Path(args.exp) / conf["run"]["conf"] / f"seed{conf['run']['seed']}"
        with nullcontext() if team.rank else trainer.only_user_of(folder):
            if team.rank == 0:
                claim(folder, conf, args.overwrite)
            team.wait()
            experiment.train(folder, conf, stock, team, device)


def stock_of(args, clips, classes, sources):
    return experiment.Stock(
        args.data,
        clips,
        classes,
        args.backbone,
        args.weights,
        sources,
        args.features_in,
        args.recompute,
        args.compile,
    )


def foresee(confs, stock, device, seeds):
    """Print what each of the runs would take by itself, and all one after the other on one device, where seeds share embeddings."""
    total = 0.0
    for conf in tqdm(confs, "estimate", unit="conf", leave=False):
        cost = estimate.estimate(conf, stock, device)
        total += cost.shared_s + seeds * (cost.seconds - cost.shared_s)
        tqdm.write(
            f"{conf['run']['conf']}: about {clock(cost.seconds)} a seed ({clock(cost.prepare_s)}, then {cost.epochs} x {clock(cost.epoch_s)} at most); "
            f"{cost.peak_bytes / 1e9:.1f} GB, and {cost.feature_bytes / 1e9:.1f} GB of features where they are kept"
        )
    print(
        f"about {clock(total)} for {len(confs)} confs x {seeds} seeds, one after the other; nothing was trained"
    )


def clock(seconds):
    """
    >>> [clock(seconds) for seconds in (0.04, 12.3, 754, 30000)]
    ['0.0 s', '12.3 s', '13 min', '8.3 h']
    """
    return (
        f"{seconds:.1f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )


def claim(folder, conf, overwrite):
    """Save the config in a new run folder; refuse one that was made with another."""
    path = folder / "config.yaml"
    if overwrite:
        for old in folder.iterdir():
            if old.name != ".lock":
                shutil.rmtree(old) if old.is_dir() else old.unlink()
    if path.is_file() and (differing := config.differences(path, conf)):
        raise config.ConfigError(
            f"{folder} was made with other settings: {'; '.join(differing)}; pass --overwrite to make it anew"
        )
    if not path.is_file() or config.read(path) != conf:  # in what tables show
        config.save(path, conf)


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parse():
    parser = command.parser(__doc__)
    parser.add_argument(
        "--data", required=True, help="folder with the manifest and the feature store"
    )
    parser.add_argument("--exp", required=True, help="folder of the run folders")
    command.add_conf_options(parser)
    command.add_run_options(parser)
    parser.add_argument(
        "--ngpu",
        type=command.between(int, 1),
        default=1,
        help="GPUs of each run, or processes on the CPU",
    )
    parser.add_argument(
        "--jobs",
        type=command.between(int, 1),
        help="runs at the same time (default: as many as there are GPUs for, one on the CPU)",
    )
    parser.add_argument(
        "--backbone", required=True, help="name of the backbone, for tables and the catalogue"
    )
    parser.add_argument("--weights", required=True, help="its weight file")
    parser.add_argument(
        "--features-in",
        choices=batches.PLACES,
        default="auto",
        help="where features stay: on the GPU, in memory, or on disk",
    )
    parser.add_argument(
        "--recompute",
        action="store_true",
        help="compute the backbone's activations twice: less memory, a third more time",
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile the backbone by torch.compile: for GPUs, takes a minute",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say what the runs would take, and do nothing"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="make runs anew that are there already"
    )
    return parser


if __name__ == "__main__":
    command.run(main, parse())
