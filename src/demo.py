"""A page in the browser to hear and see what a model makes of a song: drop or record one, choose among finished runs.

    python src/demo.py                        # the runs under egs/*/exp; prints the address to open
    python src/demo.py --exp my/exp --port 8000

It shows the instruments with their probabilities, the song's timeline, and what the reprogrammer did to ten seconds of it.
The page is for this computer alone: nobody else can open it, no sound leaves it, nothing is fetched. Ctrl-C ends it.
Needs the optional packages called `demo` in pyproject.toml.
"""

import os
import tempfile
import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
import soundfile
import torch

from ast_repr import command, inference, manifest, runs
from ast_repr import device as devices
from ast_repr.report import page, passage, predictions, results, song, style
from ast_repr.run_folder import RunFolder

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
    found = {
        str(folder): read(folder)
        for folder in runs.finished([args.exp] if args.exp else egs.glob("*/exp"))
    }
    if not found:
        where = args.exp or f"{egs}/*/exp"
        raise ValueError(
            f"no finished run under {where}; make one by: bash {egs}/openmic/run.sh, or name a folder that has one by --exp"
        )
    device = devices.choose(args.device)
    listener = Listener(found, lru_cache(MODELS)(lambda folder: inference.load(folder, device)))
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


@dataclass(frozen=True)
class Listener:
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
            found, log_mel, surest = hear(model, path, progress)
            progress(1, desc="drawing")
            return "".join(self._sections(model, self.runs[folder], found, log_mel, surest))
        except command.EXPECTED as error:
            return page.problem(command.one_line(error).replace(str(path), Path(path).name))

    def _sections(self, model, run, found, log_mel, surest):
        view = predictions.View(model.classes, model.threshold)
        yield page.instruments(found, view)
        yield page.picture(
            song.draw(found, view, log_mel),
            "Timeline",
            "Each instrument's probability, ten seconds at a time, over the sound.",
        )
        title, hearer = (
            "What the reprogrammer did",
            "classifier" if run["backbone"]["weights"] == "none" else "transformer",
        )
        if run["reprogrammer"] == "none":
            yield page.section(
                title,
                f"Nothing: this run has no reprogrammer. The {hearer} gets the log-mel spectrogram as it is.",
            )
        else:
            text = f"To the part in which the model is surest of an instrument, {span(surest)}. The {hearer} hears the second picture, not the first."
            yield page.picture(
                before_and_after(model, run, surest, Path(found.file).name), title, text
            )
        yield page.section("How far to trust this", trust(run, model))


def hear(model, path, progress):
    """(predictions.Song, song.LongLogMel, the inference.Heard whose largest probability is largest) of a file of any length.

    Raises:
        AudioError: the file cannot be read.
    """
    times, timeline, log_mel, surest = [], [], song.LongLogMel(), None
    for heard in model.listen([path], batch_size=BATCH):
        if heard.error:
            raise heard.error
        seconds = soundfile.info(path).duration
        progress(
            min(heard.end_s / seconds, 1),
            desc=f"heard {predictions.clock(heard.end_s)} of {predictions.clock(seconds)}",
        )
        times.append((heard.start_s, heard.end_s))
        timeline.append(heard.probabilities)
        log_mel.add(heard.start_s, heard.end_s, heard.feature[0])
        surest = max(surest or heard, heard, key=lambda one: one.probabilities.max())
    return (
        predictions.Song(
            str(path), times[-1][1], np.array(times), np.array(timeline), np.mean(timeline, axis=0)
        ),
        log_mel,
        surest,
    )


@torch.no_grad()
def before_and_after(model, run, heard, name):
    """Figure of ten seconds, or of less where the song is shorter, before and after the reprogrammer."""
    before = model.model.normalise(torch.from_numpy(heard.feature)[None].to(model.device))
    after = model.model.reprogrammer(before)
    frames = max(
        round((heard.end_s - heard.start_s) * song.FRAMES_PER_SECOND) - song.CUT, 1
    )  # the rest is padding
    before, after = (values[0, 0, :frames].cpu().numpy() for values in (before, after))
    with matplotlib.rc_context(style.STYLE):
        return passage.draw(
            before, after, run["norm"], f"{run['conf']}, seed {run['seed']}\n{name}, {span(heard)}"
        )


def span(heard):
    return f"{predictions.clock(heard.start_s)} to {predictions.clock(heard.end_s)}"


def trust(run, model):
    """What this model knows, and how well."""
    return (
        f"This model was trained on {len(model.classes)} instruments and can name no others: {', '.join(map(style.plain, model.classes))}. "
        f"On clips of its own corpus ({run['corpus']}) that it had not heard, its macro-F1 is {100 * run['metrics']['macro_f1']:.0f} %, of at "
        "most 100. On other music it may do worse; a probability is the model's guess, not a fact."
    )


def read(folder):
    """A results.Run from its folder."""
    return results.Run(folder, RunFolder(folder).read_results(), [])


def label(run):
    return f"{run['conf']}, seed {run['seed']} ({run['corpus']}, protocol {run['protocol']})"


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
                heard = gradio.Audio(
                    sources=["upload", "microphone"],
                    type="filepath",
                    label="Your song",
                    editable=False,
                    buttons=[],
                )
                if songs:
                    gradio.Examples(
                        songs,
                        heard,
                        label="Or one of these",
                        example_labels=[f"test clip {i + 1}" for i in range(len(songs))],
                    )
                choices = sorted((label(run), folder) for folder, run in listener.runs.items())
                run = gradio.Dropdown(
                    choices,
                    value=next(iter(listener.runs)),
                    label="Model",
                    info="Finished runs; the newest is chosen.",
                )
            with gradio.Column(scale=5, min_width=320):
                found = gradio.HTML(listener.answer(None, None, None), elem_id="found")

        def answer(path, folder, progress=gradio.Progress()):
            return listener.answer(path, folder, progress)

        how = {"concurrency_limit": 1, "trigger_mode": "always_last", "api_visibility": "private"}
        gradio.on([heard.change, run.change], answer, [heard, run], found, **how)
    return blocks


def import_gradio():
    try:
        import gradio
    except ImportError as error:
        raise ValueError(
            f"the page needs gradio, which is not here ({error}); install it by: pip install -e '{ROOT}[demo]'"
        ) from error
    return gradio


def launch(blocks, port):
    """Serve the page to this computer, and return its address."""
    themes = import_gradio().themes
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
            css=page.CSS,
            theme=themes.Default(**fonts),
        )
    except OSError as error:
        raise OSError(
            f"port {port or 'from 7860 to 7959'}: cannot be served from, another program may; name another by --port"
        ) from error
    return address


def parse():
    parser = command.parser(__doc__)
    parser.add_argument(
        "--exp",
        type=Path,
        metavar="DIR",
        help="choose among the runs below this folder; default: those under egs/*/exp",
    )
    parser.add_argument(
        "--port",
        type=command.between(int, 1, 65535),
        help="default: the first from 7860 on that is free",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    return parser


if __name__ == "__main__":
    command.run(main, parse())
