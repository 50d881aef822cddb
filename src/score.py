"""Stage `score`: predictions and metrics on the test split, for each conf and seed.

Runs that are evaluated already are skipped, see ast_repr/evaluation.py. A run that was trained on
another manifest, or with other settings, is refused. If the selection is on test (protocol paper),
each epoch is evaluated, and the best becomes best.test.<metric>.pt.
"""

if __name__ == "__main__":
    from ast_repr import cli

    cli.guard_imports()

import argparse

from ast_repr import cli, config, devices, evaluation, features, manifest
from ast_repr.run_folder import RunFolder
from ast_repr.training import trainer


def main(args: argparse.Namespace) -> None:
    clips, classes = manifest.read(args.data)
    confs = cli.confs(args, lacking=features.lacking(clips))
    runs = config.of_runs(confs, args.seeds, args.data, clips, classes, args.backbone, args.weights)
    device = devices.choose(args.device)
    evaluator = evaluation.Evaluator(args.data, clips, classes, args.weights, device)
    for conf in runs:
        run = RunFolder.of(args.exp, conf.run.conf, conf.run.seed)
        if args.conf == "all" and not run.path.is_dir():
            print(f"{run}: skipped (not trained)")
            continue
        state = evaluation.read_state(run)
        config.refuse_other(run, state["about"]["config"], conf)
        evaluation.check_finished(run, state, trainer.Plan.of(conf))
        # Classes outside the package that this command's configs name are allowed.
        allow = conf.outside_classes | set(args.allow_class)
        result = evaluator.evaluate(run, state, conf, allow)
        print(f"{run}: {result or 'already evaluated'}")


def parse() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__)
    cli.add_conf_options(parser, for_runs=True)
    cli.add_allow_option(parser)
    cli.add_run_options(parser)
    return parser


if __name__ == "__main__":
    cli.run(main, parse())
