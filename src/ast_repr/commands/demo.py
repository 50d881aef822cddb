"""Serve a page in the browser that shows which instruments a model finds in a song.

    ast-repr demo                        # prints the address to open
    ast-repr demo --exp my/exp --port 8000

It shows the instruments with their probabilities, the song's timeline, and the spectrogram before
and after the reprogrammer, if there is one; results can be downloaded as CSV, JSON and picture. The
models are the shipped one and the finished runs of the checkout. The page is served to this
computer only, no other page in the browser can use it, no audio leaves it, and nothing is fetched.
Ctrl-C ends it. Needs the extra `demo`.
"""

import os
import tempfile
import threading
from argparse import Namespace
from collections.abc import Callable
from functools import cache, lru_cache, partial
from pathlib import Path

from .. import cli, devices, inference, pretrained, run_folder
from . import demo_examples, demo_page
from .common import add_device_option, find_checkout, say
from .demo_examples import Example

CACHED_MODELS = 4


def main(args: Namespace) -> None:
    """Serve the page until Ctrl-C."""
    device = devices.choose(args.device)

    @lru_cache(CACHED_MODELS)
    def load(path):
        return inference.load(path, device, allow=args.allow_class)

    checkout = find_checkout()
    models = find_models(args.exp, checkout, load)
    with tempfile.TemporaryDirectory() as copies:  # of songs; deleted when the server ends
        os.environ["GRADIO_TEMP_DIR"] = copies
        examples = cache(partial(find_examples, checkout=checkout))
        app = demo_page.DemoApp(models, load, examples, Path(copies) / "page")
        server = demo_page.build(app)
        try:
            address = demo_page.launch(server, args.port)
            print(f"Open {address} in a browser on this computer; Ctrl-C ends it.", flush=True)
            threading.Event().wait()
        finally:
            server.close(verbose=False)


def find_models(
    exp: Path | None, checkout: Path | None, load: Callable[[str], inference.Predictor]
) -> dict[str, demo_page.ModelInfo]:
    """List the models to choose from, {path: ModelInfo}, the default first.

    Args:
        exp: a folder of runs, of which the best is the default; None: the shipped model, and the
            runs of the checkout.
        checkout: the repository, if there is one.
        load: loads the model in a path.

    Raises:
        ValueError: there is no finished run in `exp`.
    """
    if exp is None:
        folders = [] if checkout is None else checkout.glob("egs/*/exp")
        runs = run_folder.finished(folders)
        shipped = str(pretrained.shipped_model())
        models = {shipped: demo_page.ModelInfo(**load(shipped).about["run"], shipped=True)}
    else:
        runs = run_folder.finished([exp])
        if not runs:
            raise ValueError(
                f"{exp}: no finished run; name a folder that has one, or leave --exp out"
            )
        best, _ = run_folder.load_best(runs, lambda path: load(str(path)), say)
        models = {}
        if best is not None:
            say(f"model: {best.folder}, {best.describe()}")
            runs.insert(0, best)
    return models | {str(run.folder): info_of_run(run.results) for run in runs}


def info_of_run(results: dict) -> demo_page.ModelInfo:
    """Collect the facts about a run from its results."""
    return demo_page.ModelInfo(
        conf=results["conf"],
        seed=results["seed"],
        corpus=results["corpus"],
        protocol=results["protocol"],
        norm=results["norm"],
        macro_f1=results["metrics"]["macro_f1"],
    )


def find_examples(info: demo_page.ModelInfo, checkout: Path | None) -> list[Example]:
    """List a few clips of a model's corpus; empty if they are not on this computer."""
    if info.shipped or info.corpus.startswith("synthetic"):
        return demo_examples.built_in()
    if checkout is None:
        return []
    return demo_examples.prepared(info.corpus, checkout)


def parse() -> cli.Parser:
    """Return the parser of the options."""
    parser = cli.parser(__doc__)
    parser.add_argument(
        "--exp",
        type=Path,
        metavar="DIR",
        help="choose among the runs below this folder; default: those of the checkout",
    )
    parser.add_argument(
        "--port",
        type=cli.between(int, 1, 65535),
        help="default: the first free one from 7860",
    )
    cli.add_allow_option(parser)
    add_device_option(parser)
    return parser
