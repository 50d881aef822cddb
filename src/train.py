"""Stage `train`: one run for each conf and seed, from the feature store to a run folder.

The split called test is never opened here. A run that was interrupted is resumed; one that is
finished is left as it is; one that was made with other settings, from another manifest or with
other weights is refused, with the keys that differ. `--ngpu` gives a run several devices, or
processes on the CPU; started by torchrun, all of its processes share each run. `--dry-run` says
what the runs would take.
"""

if __name__ == "__main__":
    from ast_repr import cli

    cli.guard_imports()

from contextlib import nullcontext
from functools import partial
from pathlib import Path

from torch import distributed
from tqdm import tqdm

from ast_repr import atomic, blueprint, cli, config, devices, features, manifest, run_config
from ast_repr.data import dataset
from ast_repr.distributed import launch
from ast_repr.run_folder import RunFolder
from ast_repr.training import estimate, experiment, trainer


def main(args):
    if distributed.is_torchelastic_launched() and (args.ngpu > 1 or args.jobs or args.dry_run):
        raise cli.UsageError(
            "--ngpu, --jobs or --dry-run under torchrun, whose processes share each run: expected "
            "none of them; leave them out, or use python itself"
        )
    clips, classes = manifest.read(args.data)
    for folder in (Path(args.data) / "embeddings", Path(args.exp)):
        atomic.sweep(folder)
    confs = cli.confs(args, lacking=features.lacking(clips))
    confs, sources = possible(confs, classes, args)
    runs = run_config.of_runs(
        confs, args.seeds, args.data, clips, classes, args.backbone, args.weights
    )
    device_groups = devices.device_groups(args.device, args.ngpu, args.jobs, len(runs))
    if args.dry_run:
        print_estimate(
            runs[:: len(args.seeds)],
            build_context(args, clips, classes, sources),
            device_groups[0][0],
            len(args.seeds),
        )
    else:
        launch.run(partial(work, args, sources), runs, device_groups)


def possible(confs, classes, args):
    """(confs, what heads by name read of the source's classes).

    If the classes have no names among these, --conf all goes without such confs; asked for, they
    are an error.
    """
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


def work(args, sources, group, device, runs):
    """Train the runs one after the other, as one process of a team."""
    context = build_context(args, *manifest.read(args.data), sources)
    for conf in runs:
        run = RunFolder.of(args.exp, conf["run"]["conf"], conf["run"]["seed"])
        with nullcontext() if group.rank else run.locked():
            if group.rank == 0:
                prepare_run_folder(run, conf, args.overwrite)
            group.barrier()
            experiment.train(run.path, conf, context, group, device)


def build_context(args, clips, classes, sources):
    return experiment.RunContext(
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


def print_estimate(confs, context, device, seeds):
    """Print what each of the runs would take by itself, and all one after the other.

    That is on one device, where seeds share embeddings.
    """
    total = 0.0
    for conf in tqdm(confs, "estimate", unit="conf", leave=False):
        cost = estimate.estimate(conf, context, device)
        total += cost.shared_s + seeds * (cost.seconds - cost.shared_s)
        tqdm.write(
            f"{conf['run']['conf']}: about {format_duration(cost.seconds)} a seed ({format_duration(cost.prepare_s)}, "
            f"then {cost.epochs} x {format_duration(cost.epoch_s)} at most); {cost.peak_bytes / 1e9:.1f} GB, "
            f"and {cost.feature_bytes / 1e9:.1f} GB of features where they are kept"
        )
    print(
        f"about {format_duration(total)} for {len(confs)} confs x {seeds} seeds, one after the other; "
        "nothing was trained"
    )


def format_duration(seconds):
    """
    >>> [format_duration(seconds) for seconds in (0.04, 12.3, 754, 30000)]
    ['0.0 s', '12.3 s', '13 min', '8.3 h']
    """
    return (
        f"{seconds:.1f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )


def prepare_run_folder(run, conf, overwrite):
    """Save the config in a new run folder; refuse one that was made with another.

    What last.pt holds decides; config.yaml is a copy, and stands in for it before the first epoch.
    """
    if overwrite:
        run.clear()
    state = trainer.read_last(run)
    saved = read_config(run)
    if state is not None:
        run_config.refuse_other(run, state["about"]["config"], conf)
        trainer.mend(run, state)
    elif saved is not None:
        run_config.refuse_other(run, saved, conf)
    elif not run.is_empty():
        raise config.ConfigError(
            f"{run}: neither last.pt nor a readable config.yaml says how it was made; "
            "delete the folder, or pass --overwrite to train it from scratch"
        )
    if saved != conf:  # new, or damaged
        config.save(run.config, conf)
    run.write_command()


def read_config(run):
    """What config.yaml holds; None if there is none, or it is damaged."""
    try:
        return config.read(run.config)
    except (config.ConfigError, UnicodeDecodeError):
        return None


def parse():
    parser = cli.parser(__doc__)
    cli.add_conf_options(parser)
    cli.add_run_options(parser)
    parser.add_argument(
        "--ngpu",
        type=cli.between(int, 1),
        default=1,
        help="GPUs of each run, or processes on the CPU",
    )
    parser.add_argument(
        "--jobs",
        type=cli.between(int, 1),
        help="runs at the same time (default: as many as there are GPUs for, one on the CPU)",
    )
    parser.add_argument(
        "--features-in",
        choices=dataset.PLACES,
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
        "--overwrite", action="store_true", help="train runs again that are there already"
    )
    return parser


if __name__ == "__main__":
    cli.run(main, parse())
