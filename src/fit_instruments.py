"""Fit the instruments model that is shipped, and write it as `ast-repr export` does.

It needs the clips that `egs/pretrain/run.sh` rendered, and the prepared built-in corpus with its
features; `egs/instruments/run.sh` makes the latter. Folders after --try-on are prepared corpora
that know the truth of their test split: the model is scored on them, and its card says how well it
does.
"""

if __name__ == "__main__":
    from ast_repr import cli

    cli.guard_imports()

from pathlib import Path

import torch

from ast_repr import backbones, cli, identity, pretrained
from ast_repr.classifier import build_model
from ast_repr.export import instruments
from ast_repr.training import instrument_model
from ast_repr.training.instrument_model import CLASSES, CorpusClips, NoiseClips

FEATURES = {"ast_tiny_synth": "logmel", "musicnn_msd": "musicnn_mel"}
HELD_OUT = "rendered music"
HELD_OUT_NOISES = 256


def main(args):
    torch.set_num_threads(args.nj)
    feature = FEATURES[args.backbone]
    weights = args.backbone_file
    if weights is None:
        source = pretrained.find(args.backbone)
        source.fetch()
        weights = source.path
    model, spec = build(args.backbone, weights)

    train = instrument_model.embed_split(model, feature, args.clips, args.data, "train", seed=0)
    valid = instrument_model.embed_split(model, feature, args.clips, args.data, "valid", seed=1)
    print(f"{len(train.features):,} clips to fit, {len(valid.features):,} to calibrate", flush=True)
    threshold = instrument_model.fit(model, train, valid)
    print(f"names instruments from {threshold} on", flush=True)

    results = {}
    for name, folder in {HELD_OUT: args.data, **{path.name: path for path in args.try_on}}.items():
        test = CorpusClips(folder, "test", feature)
        clips = instrument_model.embed(model, test, augmented=False)
        results[name] = instrument_model.evaluate(model, clips, threshold)
        print(f"{name}, {instrument_model.describe(results[name])}", flush=True)
    noise = NoiseClips(HELD_OUT_NOISES, 1, feature)
    noise = instrument_model.embed(model, noise, augmented=False)
    named = instrument_model.probabilities(model, noise) >= threshold
    noise_names = float(named.sum(axis=1).mean())
    print(f"sounds without music: {noise_names:.3f} instruments named per clip", flush=True)

    about = instruments.describe(
        model,
        spec,
        CLASSES,
        feature,
        threshold,
        results,
        identity.of_file(weights),
        instrument_model.SUMMARY,
    )
    facts = {
        "name": args.out.name,
        "default": pretrained.DEFAULT_MODEL,
        "augmented": instrument_model.is_augmented(feature),
        "clips": len(train.features),
        "valid_clips": len(valid.features),
        "prior": instrument_model.PRIOR,
        "most_wrong": instrument_model.MOST_WRONG,
        "noise_names": noise_names,
        "weakest": {name: instrument_model.weakest(scores) for name, scores in results.items()},
    }
    instruments.write(args.out, model, about, results, facts)
    print(f"{args.out}: {(args.out / instruments.MODEL).stat().st_size / 1000:,.0f} kB")


def build(name, weights):
    """Build the model on the frozen backbone in a file: (model, keywords of `build_model`)."""
    network = pretrained.network(name)
    header = backbones.weights.read_header(weights)
    options = header["dims"] | {"mean": header["mean"], "std": header["std"]}
    if network == "musicnn":
        options |= {"embedding": "pooled"}
    spec = {
        "norm": "backbone",
        "reprogrammer": {"name": "none"},
        "backbone": {
            "name": network,
            "options": options,
            "source": name,
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
    parser.add_argument("--backbone", choices=tuple(FEATURES), default="ast_tiny_synth")
    parser.add_argument(
        "--backbone-file", type=Path, metavar="FILE", help="its weights (default: the catalogue's)"
    )
    parser.add_argument("--nj", type=cli.between(int, 1), default=2, help="threads")
    return parser


if __name__ == "__main__":
    cli.run(main, parse())
