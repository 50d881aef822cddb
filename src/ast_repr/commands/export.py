"""Export a trained run as a small file with its model card, to share or to publish.

    run=egs/openmic/exp/synthetic/ast_unet/seed0
    ast-repr export $run shared/ast_unet            # the backbone's weights stay apart
    ast-repr export $run shared/ast_unet --merge    # the backbone's weights inside
    ast-repr export $run shared/ast_unet --onnx     # model.onnx as well
    ast-repr export $run shared/ast_unet --int8     # model.onnx with linear layers in 8 bits
    ast-repr export $run shared/ast_unet --push-to-hub USER/NAME

It writes model.safetensors, labels.txt, README.md and, with --onnx, model.onnx: one graph from the
log-mel to probabilities, verified under onnxruntime before it is kept (needs the extra `onnx`).
--int8 quantises its linear layers, and prints the file's size and how far a probability may differ.
`ast-repr predict --model` takes the folder and each of the two models. Existing files are replaced
only with --overwrite, and nothing is uploaded without asking.
"""

import sys
from argparse import Namespace
from pathlib import Path

from .. import atomic, cli, inference
from ..export import description, hub, model_card, onnx, safetensors
from ..run_folder import RunFolder
from .common import add_model_options

MODEL, GRAPH = inference.EXPORTED
CARD = "README.md"
FILES = (MODEL, GRAPH, inference.LABELS, CARD)


def main(args: Namespace) -> None:
    """Export the best checkpoint of a run."""
    run = RunFolder(args.run)
    checkpoint = run.best_checkpoint()
    predictor = inference.load(checkpoint, "cpu", args.backbone_file, args.allow_class)
    model = predictor.model
    feature = predictor.feature
    config = model_card.read_config(predictor.about, checkpoint)
    results = model_card.read_results(run)
    merged = args.merge or model.finetune
    about = description.describe(
        predictor.about, config, predictor.spec, feature.spec(), results, merged
    )
    backbone = about["spec"]["backbone"]["file"]
    check_output_folder(args.out, about["backbone"]["file"], args.overwrite)
    graph = args.out / GRAPH
    graph.unlink(missing_ok=True)  # of an earlier export, perhaps of another model
    has_graph = args.onnx or args.int8
    if has_graph:
        print(f"{graph}: exporting and verifying, up to a minute ...", flush=True)
        difference = onnx.save(graph, model, feature.shape, about, args.int8)
        print(f"{graph}: {size(graph)}, probabilities within {difference:.1e} of PyTorch's")
    tensors = model.state_dict() if merged else model.trainable_state_dict()
    safetensors.save(args.out / MODEL, tensors, about)
    atomic.write_text(args.out / inference.LABELS, "\n".join(predictor.classes) + "\n")
    card = model_card.render(about, config, predictor.window, results, merged, has_graph, args.int8)
    atomic.write_text(args.out / CARD, card)
    needs = f"needs {backbone} beside it" if backbone else "self-contained"
    print(f"{args.out / MODEL}: {size(args.out / MODEL)}, {needs}")
    hint = "read it before you share the model"
    if results is None:
        hint = "the run was not scored, so it has no results"
    print(f"{args.out / CARD}: {hint}")
    if args.push_to_hub:
        push(args.out, args.push_to_hub, args.yes)


def check_output_folder(folder: Path, backbone: str | None, overwrite: bool) -> None:
    """Refuse a folder that an export must not be written to.

    It may hold hidden files, the file `backbone` and, to be replaced, an earlier export.

    Raises:
        ValueError: it is a file, or holds something else.
        FileExistsError: it holds an earlier export, which is not to be replaced.
    """
    if not folder.exists():
        return
    expected = "expected a new folder or an earlier export; name another"
    if not folder.is_dir():
        raise ValueError(f"{folder}: a file, {expected}")
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    unexpected = sorted(names - {*FILES, backbone})
    if unexpected:
        raise ValueError(f"{folder}: holds {', '.join(unexpected[:3])}, {expected}")
    atomic.refuse_to_replace([folder / name for name in FILES], overwrite)


def push(folder: Path, repo: str, agreed: bool) -> None:
    """Upload the exported files to a public repository of the Hugging Face hub.

    Args:
        folder: the folder of the export.
        repo: the repository's name, "user/name".
        agreed: upload without asking.

    Raises:
        RuntimeError: the user does not agree, or the upload failed.
    """
    files = [folder / name for name in FILES if (folder / name).is_file()]
    if not agreed:
        listed = ", ".join(f"{path.name} ({size(path)})" for path in files)
        print(f"Upload {listed} to https://huggingface.co/{repo}, for everybody to see? [y/N] ")
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise RuntimeError(f"{folder}: not uploaded; answer y, or pass --yes")
    print(f"uploaded: {hub.push(files, repo)}")


def size(path: Path) -> str:
    """Format the size of a file."""
    return f"{path.stat().st_size / 1000:,.0f} kB"


def parse() -> cli.Parser:
    """Return the parser of the options."""
    parser = cli.parser(__doc__)
    parser.add_argument(
        "run", type=Path, metavar="RUN", help="the folder of a run, whose best checkpoint is taken"
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
        help="replace an earlier export, including a README.md that was edited",
    )
    parser.add_argument(
        "--merge",
        action="store_true",
        help="put the backbone's tensors into the file, which is then self-contained",
    )
    parser.add_argument("--onnx", action="store_true", help="write model.onnx as well")
    parser.add_argument(
        "--int8",
        action="store_true",
        help="write model.onnx with its linear layers quantised to 8-bit integers: a smaller file "
        "whose probabilities differ, by how much is printed",
    )
    parser.add_argument(
        "--push-to-hub",
        metavar="REPO",
        help="upload the files to this repository of the Hugging Face hub, USER/NAME; asks first",
    )
    parser.add_argument("--yes", action="store_true", help="upload without asking")
    add_model_options(parser)
    return parser
