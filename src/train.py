"""Stage `train`: one run for each conf and seed, from the feature store to a run folder.

The test split is never opened here. An interrupted run is resumed; a run with other settings,
manifest or weights is refused, with the keys that differ. `--ngpu` gives each run several GPUs, or
processes on the CPU; started by torchrun or `accelerate launch`, all processes share each run.
`--dry-run` estimates the cost of the runs; for the paper's corpus or backbone, the estimate is
printed before training, too.
"""

if __name__ == "__main__":
    from ast_repr import cli

    cli.guard_imports()

import importlib.util
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from tqdm import tqdm

from ast_repr import (
    atomic,
    cli,
    config,
    devices,
    distributed,
    features,
    manifest,
    model_spec,
    pretrained,
)
from ast_repr.options import add_training_options
from ast_repr.run_folder import RunFolder
from ast_repr.settings import Config
from ast_repr.training import estimate, experiment, trainer

PAPER_CORPUS = "openmic"
PAPER_BACKBONE = "ast_audioset"


def main(args):
    check_options(args)
    clips, classes = manifest.read(args.data)
    for folder in (Path(args.data) / "embeddings", Path(args.exp)):
        atomic.sweep(folder)
    confs = cli.confs(args, lacking=features.lacking(clips))
    confs = possible(confs, classes, args)
    runs = config.of_runs(confs, args.seeds, args.data, clips, classes, args.backbone, args.weights)
    device_groups = devices.device_groups(args.device, args.ngpu, args.jobs, len(runs))
    context = build_context(args, clips, classes)
    if args.dry_run:
        print_estimate(runs, context, device_groups[0][0])
        print("nothing was trained")
        return
    if is_paper(args) and distributed.is_first():
        left = runs if args.overwrite else unfinished(runs, args.exp)
        print_estimate(left, context, device_groups[0][0])
    distributed.run(partial(work, args), runs, device_groups)


def check_options(args) -> None:
    """Raise a UsageError for options that exclude each other, or need a missing package."""
    if distributed.is_launched() and (args.ngpu > 1 or args.jobs or args.dry_run):
        raise cli.UsageError(
            "--ngpu, --jobs or --dry-run under torchrun, whose processes share each run: expected "
            "none of them; leave them out, or use python itself"
        )
    if args.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise cli.UsageError(
            "--tensorboard: the package is not installed; in a copy of the repository, run "
            "pip install -e '.[tensorboard]'"
        )


def possible(confs: dict, classes: list[str], args) -> dict:
    """Leave out confs without weights, or whose head does not find its classes among the source's.

    If they are asked for by name, this is an error; the weights of a teacher are then fetched.
    """
    confs = with_teachers(confs, args)
    if not pretrained.panns_path().is_file():
        confs = with_panns_weights(confs, args)
    by_name = [name for name, conf in confs.items() if model_spec.maps_by_name(conf)]
    if not by_name:
        return confs
    try:
        model_spec.source_groups(classes, args.backbone, args.weights)
    except ValueError as error:
        if args.conf != "all":
            raise
        for name in by_name:
            print(f"{name}: left out, {error}")
        return {name: conf for name, conf in confs.items() if name not in by_name}
    return confs


def with_teachers(confs: dict, args) -> dict:
    """Verify the weights of teachers; confs whose teacher is missing are left out of "all"."""
    left = {}
    for name, conf in confs.items():
        if conf.teacher is not None:
            entry = pretrained.find(conf.teacher.backbone)
            if args.conf == "all" and not entry.is_available:
                print(f"{name}: left out, no weights of {entry.name}; name the conf to fetch them")
                continue
            entry.fetch()
        left[name] = conf
    return left


def with_panns_weights(confs: dict, args) -> dict:
    """Leave out confs that need PANNs' weights, which are not there."""
    left = {}
    for name, conf in confs.items():
        if not pretrained.starts_from_panns(conf.backbone.name, conf.backbone.weights):
            left[name] = conf
            continue
        message = (
            f"{name}: no weights of PANNs; pass --panns (327 MB to download) or --panns-file FILE "
            "to the stage `fetch`, or train from scratch with --set backbone.weights=none"
        )
        if args.conf != "all":
            raise ValueError(message)
        print(f"left out, {message}")
    return left


def work(args, group, device, runs) -> None:
    """Train the runs in sequence, as one process of a group."""
    context = build_context(args, *manifest.read(args.data))
    for conf in runs:
        run = run_folder(args.exp, conf)
        with run.locked() if group.is_main_process else nullcontext():
            if group.is_main_process:
                prepare_run_folder(run, conf, args.overwrite)
            group.wait_for_everyone()
            experiment.train(run.path, conf, context, group, device)


def run_folder(exp: str | Path, conf: Config) -> RunFolder:
    """Return the folder of the run that a config describes."""
    return RunFolder.of(exp, conf.run.conf, conf.run.seed)


def build_context(args, clips, classes) -> experiment.RunContext:
    """Return the context of all runs."""
    return experiment.RunContext(
        args.data,
        clips,
        classes,
        args.backbone,
        args.weights,
        storage=args.features_in,
        recompute=args.recompute,
        compile=args.compile,
        tensorboard=args.tensorboard,
    )


def is_paper(args) -> bool:
    """Whether the runs are of the paper's size, by their corpus or their backbone."""
    return Path(args.data).name == PAPER_CORPUS or args.backbone == PAPER_BACKBONE


def unfinished(runs: list[Config], exp: str | Path) -> list[Config]:
    """Return the runs that are not finished yet."""
    left = []
    for conf in runs:
        history = trainer.read_history(run_folder(exp, conf).path)
        if not trainer.finished(history, trainer.Plan.of(conf)):
            left.append(conf)
    return left


def print_estimate(runs: list[Config], context: experiment.RunContext, device) -> None:
    """Print the cost of one run of each conf, and of all runs in sequence on one device.

    Seeds share embeddings.
    """
    runs_of = {}
    for conf in runs:
        runs_of.setdefault(conf.run.conf, []).append(conf)
    total = 0.0
    for name, confs in tqdm(runs_of.items(), "estimate", unit="conf", leave=False, disable=None):
        cost = estimate.estimate(confs[0], context, device)
        total += cost.shared_s + len(confs) * (cost.seconds - cost.shared_s)
        tqdm.write(f"{name}: {cost}")
    if runs:
        duration = trainer.format_duration(total)
        print(f"about {duration} for {len(runs)} runs, one after the other", flush=True)


def prepare_run_folder(run: RunFolder, conf: Config, overwrite: bool) -> None:
    """Save the config in a new run folder; refuse the folder of a run with another.

    The config in last.pt decides; before the first epoch, config.yaml does.
    """
    if overwrite:
        run.clear()
    state = trainer.read_last(run)
    saved = read_config(run)
    if state is not None:
        config.refuse_other(run, state["about"]["config"], conf)
        trainer.restore_copies(run, state)
    elif saved is not None:
        config.refuse_other(run, saved, conf)
    elif not run.is_empty():
        raise config.ConfigError(
            f"{run}: found files, but neither last.pt nor a readable config.yaml; "
            "delete the folder, or pass --overwrite to train from scratch"
        )
    if saved != conf.to_dict():  # new, or damaged
        config.save(run.config, conf)
    run.write_command()


def read_config(run: RunFolder) -> dict | None:
    """Read config.yaml; None if it is missing or damaged."""
    try:
        return config.read(run.config)
    except (config.ConfigError, UnicodeDecodeError):
        return None


def parse():
    parser = cli.parser(__doc__)
    cli.add_conf_options(parser, for_runs=True)
    cli.add_run_options(parser)
    add_training_options(parser)
    return parser


if __name__ == "__main__":
    cli.run(main, parse())
