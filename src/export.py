"""Make a trained run into what can be handed on: tensors, a model card, names of classes.

    python src/export.py RUN shared/ast_unet            # needs the backbone where it is used
    python src/export.py RUN shared/ast_unet --merge    # the backbone's tensors inside
    python src/export.py RUN shared/ast_unet --onnx     # model.onnx as well

Writes model.safetensors, labels.txt, README.md and, if asked for, model.onnx: one graph from the
log-mel to probabilities, which is compared to the model under onnxruntime before it is kept
(optional packages `onnx` in pyproject.toml). src/predict.py --model takes the folder and each of
the two files.
"""

from pathlib import Path

from ast_repr import catalogue, command, files, graph, inference, release
from ast_repr.report import card

MODEL, GRAPH = inference.EXPORTED
CARD = "README.md"


def main(args):
    checkpoint = inference.best(args.run)
    model, about = inference.restore(checkpoint, args.backbone_file, args.allow_class)
    card.check(about, checkpoint)
    # A Predictor refuses what cannot hear sound.
    feature = inference.TorchPredictor(model, about, allow=args.allow_class).feature
    results = card.read(args.run)
    inside = args.merge or model.finetune
    shared, tensors = (
        portable(about, feature, inside),
        model.state_dict() if inside else model.learned_state(),
    )
    claim(args.out, shared["backbone"]["file"])
    graphed = args.out / GRAPH
    graphed.unlink(missing_ok=True)  # of an earlier export, perhaps of another model
    if args.onnx:
        print(f"{graphed}: being written and compared, up to a minute ...", flush=True)
        difference = graph.save(graphed, model, feature.shape, shared)
        print(f"{graphed}: {size(graphed)}, probabilities within {difference:.1e} of torch's")
    release.save(args.out / MODEL, tensors, shared)
    files.write_text(args.out / inference.LABELS, "\n".join(about["classes"]) + "\n")
    files.write_text(
        args.out / CARD, card.text(shared, about["config"], results, inside, args.onnx)
    )
    needs = (
        f"needs {shared['build']['backbone']['file']} beside it"
        if shared["build"]["backbone"]["file"]
        else "self-contained"
    )
    print(f"{args.out / MODEL}: {size(args.out / MODEL)}, {needs}")
    print(
        f"{args.out / CARD}: {'the run was not scored, so it has no results' if results is None else 'read it before you share the model'}"
    )


def claim(out, backbone):
    """Refuse a folder that holds anything but an earlier export and, beside it, the file `backbone`.

    Raises:
        ValueError: it does, or is no folder.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: a file, expected a new folder or an earlier export; name another")
    known = {MODEL, GRAPH, inference.LABELS, CARD, backbone}
    strangers = (
        sorted(
            path.name
            for path in out.iterdir()
            if path.name not in known and not path.name.startswith(".")
        )
        if out.is_dir()
        else []
    )
    if strangers:
        raise ValueError(
            f"{out}: holds {', '.join(strangers[:3])}, expected a new folder or an earlier export; name another"
        )


def portable(about, feature, inside):
    """What an exported file says of its model: enough to build it again, without this machine's paths, and where its backbone comes from."""
    backbone = about["build"]["backbone"]
    source = origin(about)
    kept = (
        "classes",
        "threshold",
        "feature",
        "backbone_sha256",
        "trainable_parameters",
        "total_parameters",
    )
    build = about["build"] | {"backbone": backbone | {"file": None if inside else source["file"]}}
    return {key: about[key] for key in kept} | {
        "feature_spec": feature.spec(),
        "build": build,
        "backbone": source,
    }


def origin(about):
    """Name, usual file name, sha256, address and licence of the file that the backbone's weights came from; None for what there is not."""
    backbone, sha256 = about["build"]["backbone"], about["config"]["run"]["weights_sha256"]
    if backbone["file"] is None:
        return dict.fromkeys(("name", "file", "file_sha256", "url", "licence"))
    known = [entry for entry in map(catalogue.find, catalogue.names()) if entry.sha256 == sha256]
    url, licence = (known[0].url, known[0].licence) if known else (None, None)
    file = backbone["source"] + Path(backbone["file"]).suffix
    return {
        "name": backbone["source"],
        "file": file,
        "file_sha256": sha256,
        "url": url,
        "licence": licence,
    }


def size(path):
    return f"{path.stat().st_size / 1000:,.0f} kB"


def parse():
    parser = command.parser(__doc__)
    parser.add_argument(
        "run", type=Path, metavar="RUN", help="the folder of a run; its best checkpoint is taken"
    )
    parser.add_argument(
        "out",
        type=Path,
        metavar="OUT",
        help="a new folder, or one of an earlier export, which is replaced",
    )
    parser.add_argument(
        "--merge",
        action="store_true",
        help="put the backbone's tensors into the file, which is then self-contained",
    )
    parser.add_argument("--onnx", action="store_true", help="write model.onnx as well")
    parser.add_argument(
        "--backbone-file",
        type=Path,
        metavar="FILE",
        help="the backbone's weights, if they are not where they were in training",
    )
    command.add_allow_option(parser)
    return parser


if __name__ == "__main__":
    command.run(main, parse())
