"""Fit the instruments model that is shipped, and write it as `ast-repr export` does.

It needs the clips that `egs/pretrain/run.sh` rendered, and the prepared built-in corpus with its
log-mels; `egs/instruments/run.sh` makes the latter. Folders after --try-on are prepared corpora
that know the truth of their test split: the model is scored on them, and its card says how well it
does.
"""

if __name__ == "__main__":
    from ast_repr import cli

    cli.guard_imports()

from pathlib import Path

import torch

from ast_repr import backbones, cli, features, identity, pretrained
from ast_repr.classifier import build_model
from ast_repr.export import instruments
from ast_repr.training import instrument_model
from ast_repr.training.instrument_model import CLASSES, CorpusClips, NoiseClips

BACKBONE = "ast_tiny_synth"
HELD_OUT = "rendered music"
HELD_OUT_NOISES = 256


def main(args):
    torch.set_num_threads(args.nj)
    weights = args.backbone_file or pretrained.find(BACKBONE).path
    model, spec = build(weights)

    train = instrument_model.training_clips(args.clips, args.data)
    valid = instrument_model.validation_clips(args.clips, args.data)
    print(f"embedding {len(train):,} clips to fit, {len(valid):,} to calibrate", flush=True)
    threshold = instrument_model.fit(
        model,
        instrument_model.embed(model, train, augmented=True, seed=0),
        instrument_model.embed(model, valid, augmented=True, seed=1),
    )
    print(f"names instruments from {threshold} on", flush=True)

    results = {}
    for name, folder in {HELD_OUT: args.data, **{path.name: path for path in args.try_on}}.items():
        clips = instrument_model.embed(model, CorpusClips(folder, "test"), augmented=False)
        results[name] = instrument_model.evaluate(model, clips, threshold)
        print(f"{name}, {instrument_model.describe(results[name])}", flush=True)
    noise = instrument_model.embed(model, NoiseClips(HELD_OUT_NOISES, seed=1), augmented=False)
    named = instrument_model.probabilities(model, noise) >= threshold
    noise_names = float(named.sum(axis=1).mean())
    print(f"sounds without music: {noise_names:.3f} instruments named per clip", flush=True)

    about = instruments.describe(
        model,
        spec,
        CLASSES,
        features.build("logmel").spec(),
        threshold,
        results,
        identity.of_file(weights),
        instrument_model.SUMMARY,
    )
    facts = {
        "clips": len(train),
        "valid_clips": len(valid),
        "prior": instrument_model.PRIOR,
        "most_wrong": instrument_model.MOST_WRONG,
        "noise_names": noise_names,
        "weakest": {name: instrument_model.weakest(scores) for name, scores in results.items()},
    }
    instruments.write(args.out, model, about, results, facts)
    print(f"{args.out}: {(args.out / instruments.MODEL).stat().st_size / 1000:,.0f} kB")


def build(weights):
    """Build the model on the frozen AST in a file: (model, keywords of `build_model`)."""
    header = backbones.weights.read_header(weights)
    spec = {
        "norm": "backbone",
        "reprogrammer": {"name": "none"},
        "backbone": {
            "name": "ast",
            "options": header["dims"] | {"mean": header["mean"], "std": header["std"]},
            "source": BACKBONE,
            "file": str(weights),
            "seed": 0,
            "finetune": False,
        },
        "head": {"name": "logistic", "Cs": list(instrument_model.CS)},
    }
    return build_model(CLASSES, **spec).eval(), spec


def parse():
    parser = cli.parser(__doc__)
    parser.add_argument(
        "--clips", type=Path, required=True, metavar="DIR", help="folder of egs/pretrain/run.sh"
    )
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="the prepared built-in corpus"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder of the model"
    )
    parser.add_argument(
        "--try-on",
        type=Path,
        nargs="*",
        default=[],
        metavar="DIR",
        help="prepared corpora that know the truth of their test split",
    )
    parser.add_argument(
        "--backbone-file", type=Path, metavar="FILE", help=f"weights of {BACKBONE}, if not shipped"
    )
    parser.add_argument("--nj", type=cli.between(int, 1), default=2, help="threads")
    return parser


if __name__ == "__main__":
    cli.run(main, parse())
