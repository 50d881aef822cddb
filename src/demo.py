"""A page in the browser to hear and see what a model makes of a song, one of the finished runs.

    python src/demo.py                        # the runs under egs/*/exp; prints the address to open
    python src/demo.py --exp my/exp --port 8000

It shows the instruments with their probabilities, the song's timeline, and what the reprogrammer
did to ten seconds of it. The page is for this computer alone: nobody else can open it, no other
page in the browser can use it, no sound leaves it, nothing is fetched. Ctrl-C ends it. Needs the
optional packages called `demo` in pyproject.toml.
"""

if __name__ == "__main__":
    from ast_repr import cli

    cli.guard_imports()

import os
import sys
import tempfile
import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
import torch

from ast_repr import audio, cli, devices, escaping, inference, manifest, runs
from ast_repr.report import before_after, results, style
from ast_repr.run_folder import RunFolder
from ast_repr.viewer import page, predictions, timeline

ROOT = Path(__file__).resolve().parents[1]
ADDRESS = "127.0.0.1"  # seen from this computer only
MODELS = 4  # kept in memory
BATCH = 4  # windows at once: few, so that progress is seen
EXAMPLES = 3
KEPT = 3600  # seconds for which a running server keeps its copy of a song
TITLE = "Which instruments are in this song?"
INTRODUCTION = (
    "A frozen transformer that was trained on sounds of all kinds hears your song through a small trained change of its input, the "
    "*reprogrammer*, and names the instruments. All of it happens on this computer; your song is sent nowhere."
)


def main(args):
    egs = ROOT / "egs"
    folders = [args.exp] if args.exp else [*egs.glob("*/exp")]
    found = {str(folder): read(folder) for folder in runs.finished(folders)}
    if not found:
        where = args.exp or f"{egs}/*/exp"
        raise ValueError(
            f"no finished run under {where}; make one by: bash {egs}/openmic/run.sh, or name a folder that has one by --exp"
        )
    device = devices.choose(args.device)

    @lru_cache(MODELS)
    def load(folder):
        return inference.load(folder, device, allow=args.allow_class)

    chosen = runs.choose(folders, lambda folder: load(str(folder)), say)
    if chosen is not None:
        run, _ = chosen
        say(f"model: {run.folder}, {run.why}")
        best = str(run.folder)
        found = {best: found.pop(best)} | found  # the first is the page's default
    listener = DemoApp(found, load)
    with tempfile.TemporaryDirectory() as copies:  # of songs; they go when the server ends
        os.environ["GRADIO_TEMP_DIR"] = copies
        served = build(listener, examples(egs))
        try:
            print(
                f"Open {launch(served, args.port)} in a browser on this computer; Ctrl-C ends it.",
                flush=True,
            )
            threading.Event().wait()
        finally:
            served.close(verbose=False)


def say(line):
    print(escaping.terminal(line), file=sys.stderr)


@dataclass(frozen=True)
class DemoApp:
    """What the page asks: a song and a run in, a piece of page out.

    Attributes:
        runs: {folder: results.Run} to choose from.
        load: folder -> inference.Predictor.
    """

    runs: dict
    load: object

    def answer(self, path, folder, progress):
        """HTML of all that the model of the run in `folder` hears in the file `path`, or of what is wrong with it."""
        if path is None:
            return page.note("What is heard in your song appears here.")
        try:
            progress(0, desc="loading the model")
            model = self.load(folder)
            warnings = []
            found, log_mel, surest = analyse(model, path, progress, warnings.append)
            progress(1, desc="drawing")
            problems = [page.problem(line.replace(str(path), Path(path).name)) for line in warnings]
            sections = self._sections(model, self.runs[folder], found, log_mel, surest)
            return "".join([*problems, *sections])
        except cli.EXPECTED as error:
            where = escaping.terminal(str(path))
            name = escaping.terminal(Path(path).name)
            return page.problem(cli.one_line(error).replace(where, name))

    def _sections(self, model, run, found, log_mel, surest):
        view = predictions.DisplayOptions(model.classes, model.threshold)
        yield page.instruments(found, view)
        yield page.picture(
            timeline.draw(found, view, log_mel),
            "Timeline",
            "Each instrument's probability, ten seconds at a time, over the sound.",
        )
        title, model_kind = (
            "What the reprogrammer did",
            "classifier" if run["backbone"]["weights"] == "none" else "transformer",
        )
        if run["reprogrammer"] == "none":
            yield page.section(
                title,
                f"Nothing: this run has no reprogrammer. The {model_kind} gets the log-mel spectrogram as it is.",
            )
        else:
            text = f"To the part in which the model is surest of an instrument, {span(surest)}. The {model_kind} hears the second picture, not the first."
            yield page.picture(
                before_and_after(model, run, surest, Path(found.file).name), title, text
            )
        yield page.section("How far to trust this", trust(run, model))


def analyse(model, path, progress, warn):
    """Predict a file of any length, window by window.

    Args:
        model: an inference.Predictor.
        path: the file.
        progress: called with the share that is done and a line about it.
        warn: called with a line about a file that is damaged, or whose samples exceed +-1.

    Returns:
        (predictions.FilePrediction, timeline.LongLogMel, inference.WindowPrediction whose largest probability is largest).

    Raises:
        AudioError: the file cannot be read.
    """
    seconds = audio.duration(path)
    times, per_window, silent, log_mel, surest = [], [], [], timeline.LongLogMel(), None
    for window in model.predict_files([path], batch_size=BATCH, warn=warn):
        if window.error:
            raise window.error
        progress(
            min(window.end_s / seconds, 1),
            desc=f"heard {predictions.format_timestamp(window.end_s)} of {predictions.format_timestamp(seconds)}",
        )
        times.append((window.start_s, window.end_s))
        per_window.append(window.probabilities)
        silent.append(window.silent)
        log_mel.add(window.start_s, window.end_s, window.feature[0])
        surest = max(surest or window, window, key=lambda one: one.probabilities.max())
    found = predictions.FilePrediction(
        str(path),
        times[-1][1],
        np.array(times),
        np.array(per_window),
        np.mean(per_window, axis=0),
        silent=np.array(silent),
    )
    return found, log_mel, surest


@torch.no_grad()
def before_and_after(model, run, window, name):
    """Figure of ten seconds, or of less where the song is shorter, before and after the reprogrammer."""
    before = model.model.normalise(torch.from_numpy(window.feature)[None].to(model.device))
    after = model.model.reprogrammer(before)
    frames = max(
        round((window.end_s - window.start_s) * timeline.FRAMES_PER_SECOND) - timeline.CUT, 1
    )  # the rest is padding
    before, after = (values[0, 0, :frames].cpu().numpy() for values in (before, after))
    title = [f"{run['conf']}, seed {run['seed']}", f"{name}, {span(window)}"]
    with matplotlib.rc_context(style.STYLE):
        return before_after.draw(before, after, run["norm"], "\n".join(map(escaping.figure, title)))


def span(window):
    return f"{predictions.format_timestamp(window.start_s)} to {predictions.format_timestamp(window.end_s)}"


def trust(run, model):
    """What this model knows, and how well."""
    names = ", ".join(map(escaping.plain, model.classes))
    macro_f1 = run["metrics"]["macro_f1"]
    measured = "unknown" if macro_f1 is None else f"{100 * macro_f1:.0f} %, of at most 100"
    return (
        f"This model was trained on {len(model.classes)} instruments and can name no others: "
        f"{names}. On clips of its own corpus ({run['corpus']}) that it had not heard, its macro-F1 "
        f"is {measured}. On other music it may do worse; a probability is the model's guess, not a "
        "fact."
    )


def read(folder):
    """A results.Run from its folder."""
    return results.Run(folder, RunFolder(folder).read_results(), [])


def label(run):
    return escaping.terminal(
        f"{run['conf']}, seed {run['seed']} ({run['corpus']}, protocol {run['protocol']})"
    )


def examples(egs):
    """A few test clips of the first prepared corpus that has its audio at hand: paths."""
    for data in sorted(egs.glob("*/data/*/manifest.jsonl")):
        clips = (
            data.parent / clip.audio
            for clip in manifest.read(data.parent)[0]
            if clip.split == "test"
        )
        if found := [str(path) for path in clips if path.is_file()][:EXAMPLES]:
            return found
    return []


def build(listener, songs):
    """The page, as gradio.Blocks; `songs`: paths of examples."""
    gradio = import_gradio()
    with gradio.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(KEPT, KEPT)) as blocks:
        gradio.Markdown(f"# {TITLE}\n{INTRODUCTION}")
        with gradio.Row():
            with gradio.Column(scale=2, min_width=320, elem_classes="beside"):
                window = gradio.Audio(
                    sources=["upload", "microphone"],
                    type="filepath",
                    label="Your song",
                    editable=False,
                    buttons=[],
                )
                if songs:
                    gradio.Examples(
                        songs,
                        window,
                        label="Or one of these",
                        example_labels=[f"test clip {i + 1}" for i in range(len(songs))],
                    )
                choices = sorted((label(run), folder) for folder, run in listener.runs.items())
                run = gradio.Dropdown(
                    choices,
                    value=next(iter(listener.runs)),
                    label="Model",
                    info="Finished runs; the best on validation comes first.",
                )
            with gradio.Column(scale=5, min_width=320):
                found = gradio.HTML(listener.answer(None, None, None), elem_id="found")

        def answer(path, folder, progress=gradio.Progress()):
            return listener.answer(path, folder, progress)

        how = {"concurrency_limit": 1, "trigger_mode": "always_last", "api_visibility": "private"}
        gradio.on([window.change, run.change], answer, [window, run], found, **how)
    return blocks


def import_gradio():
    try:
        import gradio
    except ImportError as error:
        raise ValueError(
            f"the page needs gradio, which is not here ({error}); install it by: pip install -e '{ROOT}[demo]'"
        ) from error
    return gradio


class LocalOnly:
    """ASGI middleware that answers this computer's own page alone.

    A request must name the server by its local address, which a foreign name that was rebound to
    that address does not, and no other page may have sent it.
    """

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        """Pass on what the page itself asks, and refuse the rest."""
        if scope["type"] != "lifespan":
            port = scope["server"][1]
            suffix = "" if port == 80 else f":{port}"
            hosts = {f"{name}{suffix}" for name in (ADDRESS, "localhost")}
            asked = [value.decode("latin-1") for key, value in scope["headers"] if key == b"host"]
            senders = [
                value.decode("latin-1") for key, value in scope["headers"] if key == b"origin"
            ]
            own = len(asked) == 1 and asked[0] in hosts
            if not own or any(sender != f"http://{asked[0]}" for sender in senders):
                return await self.refuse(scope, receive, send, port)
        await self.app(scope, receive, send)

    @staticmethod
    async def refuse(scope, receive, send, port):
        from starlette.responses import PlainTextResponse
        from starlette.websockets import WebSocketClose

        text = f"This page is for this computer alone: open http://{ADDRESS}:{port}/\n"
        websocket = scope["type"] == "websocket"
        answer = WebSocketClose() if websocket else PlainTextResponse(text, status_code=403)
        await answer(scope, receive, send)


def launch(blocks, port):
    """Serve the page to this computer, and return its address."""
    themes = import_gradio().themes
    from starlette.middleware import Middleware  # comes with gradio

    fonts = {
        "font": ["system-ui", "sans-serif"],
        "font_mono": ["ui-monospace", "monospace"],
    }  # the default ones are fetched
    try:
        _, address, _ = blocks.launch(
            server_name=ADDRESS,
            server_port=port,
            share=False,
            inbrowser=False,
            prevent_thread_lock=True,
            quiet=True,
            ssr_mode=False,
            footer_links=[],
            run_history=False,
            app_kwargs={"middleware": [Middleware(LocalOnly)]},
            css=page.CSS,
            theme=themes.Default(**fonts),
        )
    except OSError as error:
        raise OSError(
            f"port {port or 'from 7860 to 7959'}: cannot be served from, another program may; name another by --port"
        ) from error
    return address


def parse():
    parser = cli.parser(__doc__)
    parser.add_argument(
        "--exp",
        type=Path,
        metavar="DIR",
        help="choose among the runs below this folder; default: those under egs/*/exp",
    )
    parser.add_argument(
        "--port",
        type=cli.between(int, 1, 65535),
        help="default: the first from 7860 on that is free",
    )
    cli.add_allow_option(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    return parser


if __name__ == "__main__":
    cli.run(main, parse())
