"""Export a trained run: its tensors in kilobytes, a model card, the names of its classes.

    run=egs/openmic/exp/synthetic/ast_unet/seed0
    python src/export.py $run shared/ast_unet            # needs the backbone where it is used
    python src/export.py $run shared/ast_unet --merge    # the backbone's tensors inside
    python src/export.py $run shared/ast_unet --onnx     # model.onnx as well

Writes model.safetensors, labels.txt, README.md and, if asked for, model.onnx: one graph from the
log-mel to probabilities, which is compared to the model under onnxruntime before it is kept
(optional packages `onnx` in pyproject.toml). src/predict.py --model takes the folder and each of
the two files. What is there already is replaced only by --overwrite.
"""

if __name__ == "__main__":
    from ast_repr import cli

    cli.guard_imports()

from pathlib import Path

from ast_repr import atomic, cli, inference, pretrained
from ast_repr.export import model_card, onnx, safetensors

MODEL, GRAPH = inference.EXPORTED
CARD = "README.md"


def main(args):
    checkpoint = inference.best(args.run)
    model, about = inference.restore(checkpoint, args.backbone_file, args.allow_class)
    model_card.check(about, checkpoint)
    # A Predictor refuses what cannot hear sound.
    feature = inference.TorchPredictor(model, about, allow=args.allow_class).feature
    results = model_card.read(args.run)
    with_backbone = args.merge or model.finetune
    shared, tensors = (
        export_metadata(about, feature, with_backbone),
        model.state_dict() if with_backbone else model.trainable_state_dict(),
    )
    check_output_dir(args.out, shared["backbone"]["file"], args.overwrite)
    graphed = args.out / GRAPH
    graphed.unlink(missing_ok=True)  # of an earlier export, perhaps of another model
    if args.onnx:
        print(f"{graphed}: being written and compared, up to a minute ...", flush=True)
        difference = onnx.save(graphed, model, feature.shape, shared)
        print(f"{graphed}: {size(graphed)}, probabilities within {difference:.1e} of torch's")
    safetensors.save(args.out / MODEL, tensors, shared)
    atomic.write_text(args.out / inference.LABELS, "\n".join(about["classes"]) + "\n")
    atomic.write_text(
        args.out / CARD, model_card.text(shared, about["config"], results, with_backbone, args.onnx)
    )
    needs = (
        f"needs {shared['spec']['backbone']['file']} beside it"
        if shared["spec"]["backbone"]["file"]
        else "self-contained"
    )
    print(f"{args.out / MODEL}: {size(args.out / MODEL)}, {needs}")
    if results is None:
        print(f"{args.out / CARD}: the run was not scored, so it has no results")
    else:
        print(f"{args.out / CARD}: read it before you share the model")


def check_output_dir(out, backbone, overwrite):
    """Refuse a folder that an export must not be written to.

    Beside hidden files it may hold the file `backbone` and, to be replaced, an earlier export.

    Raises:
        ValueError: it is a file, or holds something else.
        FileExistsError: it holds an earlier export, which is not to be replaced.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise ValueError(f"{out}: a file, expected a new folder or an earlier export; name another")
    ours = [MODEL, GRAPH, inference.LABELS, CARD]
    names = {path.name for path in out.iterdir() if not path.name.startswith(".")}
    unexpected_files = sorted(names - {*ours, backbone})
    if unexpected_files:
        raise ValueError(
            f"{out}: holds {', '.join(unexpected_files[:3])}, "
            "expected a new folder or an earlier export; name another"
        )
    atomic.refuse_to_replace([out / name for name in ours], overwrite)


def export_metadata(about, feature, with_backbone):
    """What an exported file says of its model: enough to build it, no paths of this machine."""
    backbone = about["spec"]["backbone"]
    source = origin(about)
    kept = (
        "classes",
        "threshold",
        "feature",
        "backbone_sha256",
        "trainable_parameters",
        "total_parameters",
    )
    spec = about["spec"] | {
        "backbone": backbone | {"file": None if with_backbone else source["file"]}
    }
    return {key: about[key] for key in kept} | {
        "feature_spec": feature.spec(),
        "spec": spec,
        "backbone": source,
    }


def origin(about):
    """Name, file name, sha256, address and licence of the backbone's weights; None if unknown."""
    backbone, sha256 = about["spec"]["backbone"], about["config"]["run"]["weights_sha256"]
    if backbone["file"] is None:
        return dict.fromkeys(("name", "file", "file_sha256", "url", "licence"))
    known = [entry for entry in map(pretrained.find, pretrained.names()) if entry.sha256 == sha256]
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
    parser = cli.parser(__doc__)
    parser.add_argument(
        "run", type=Path, metavar="RUN", help="the folder of a run; its best checkpoint is taken"
    )
    parser.add_argument(
        "out",
        type=Path,
        metavar="OUT",
        help="a new folder; one of an earlier export is refused without --overwrite",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace an earlier export, a README.md that was edited included",
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
    cli.add_allow_option(parser)
    return parser


if __name__ == "__main__":
    cli.run(main, parse())
