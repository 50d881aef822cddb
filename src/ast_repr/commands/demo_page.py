"""The demo's web page: a song and a model in, instruments, timeline and spectrograms out."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib
import torch
from matplotlib.figure import Figure

from .. import audio, cli, escaping, inference
from ..report import before_after, style
from ..viewer import page, predictions, timeline
from ..viewer.predictions import format_timestamp

ADDRESS = "127.0.0.1"  # reachable from this computer only
BATCH = 4  # windows per forward pass: few, so that the progress moves
KEPT_S = 3600  # how long a running server keeps its copy of a song
TITLE = "Which instruments are in this song?"
INTRODUCTION = (
    "A frozen transformer, trained on sounds of all kinds, receives your song through a small "
    "trained change of its input, the *reprogrammer*, and names the instruments. Everything is "
    "computed on this computer; your song is not sent anywhere."
)
# The default fonts would be fetched.
FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}


@dataclass(frozen=True)
class ModelInfo:
    """Facts about a model that the page shows.

    Attributes:
        macro_f1: on the test split of its corpus; None if unknown.
    """

    conf: str
    seed: int
    corpus: str
    protocol: str
    norm: str
    macro_f1: float | None
    shipped: bool = False

    @property
    def label(self) -> str:
        """The model's name in the list of models."""
        origin = ", shipped" if self.shipped else ""
        return escaping.terminal(
            f"{self.conf}, seed {self.seed} ({self.corpus}, protocol {self.protocol}{origin})"
        )


@dataclass(frozen=True)
class DemoApp:
    """The page's answers.

    Attributes:
        models: {path: ModelInfo} of the models to choose from, the default first.
        load: loads the model in a path.
    """

    models: dict[str, ModelInfo]
    load: Callable[[str], inference.TorchPredictor]

    def answer(self, song: str | None, path: str, progress: Callable) -> str:
        """Render a song's prediction by the model in `path`, or the error, as HTML."""
        if song is None:
            return page.note("The instruments of your song will appear here.")
        name = Path(song).name
        warnings = []
        try:
            progress(0, desc="loading the model")
            model = self.load(path)
            prediction, log_mel, surest = analyse(model, song, progress, warnings.append)
            progress(1, desc="drawing")
            html = render(model, self.models[path], prediction, log_mel, surest)
        except cli.EXPECTED as error:
            line = cli.one_line(error).replace(escaping.terminal(song), escaping.terminal(name))
            return page.problem(line)
        problems = [page.problem(line.replace(song, name)) for line in warnings]
        return "".join(problems) + html


def render(
    model: inference.TorchPredictor,
    info: ModelInfo,
    prediction: inference.FilePrediction,
    log_mel: timeline.LongLogMel,
    surest: inference.WindowPrediction,
) -> str:
    """Render the results of `analyse` as HTML."""
    view = predictions.DisplayOptions(model.classes, model.threshold)
    network = "transformer" if model.spec.backbone.name == "ast" else "classifier"
    title = "Before and after the reprogrammer"
    if model.spec.reprogrammer["name"] == "none":
        text = f"This model has no reprogrammer: the {network} receives the log-mel as it is."
        before_and_after = page.section(title, text)
    else:
        text = (
            f"{span(surest)}, where the model is most certain of an instrument: the "
            f"{network} receives the second spectrogram instead of the first."
        )
        figure = draw_before_after(model, info, surest, Path(prediction.path).name)
        before_and_after = page.picture(figure, title, text)
    text = "Each instrument's probability in windows of ten seconds, above the log-mel."
    sections = [
        page.instruments(prediction, view),
        page.picture(timeline.draw(prediction, view, log_mel), "Timeline", text),
        before_and_after,
        page.section("How far to trust the results", limits(info, model)),
    ]
    return "".join(sections)


def analyse(
    model: inference.Predictor, path: str, progress: Callable, warn: Callable[[str], None]
) -> tuple[inference.FilePrediction, timeline.LongLogMel, inference.WindowPrediction]:
    """Predict a file of any length.

    Args:
        progress: called with the share that is done and a line about it.
        warn: called with a line if the file is damaged or exceeds +-1.

    Returns:
        (its prediction, its log-mel, the window with the largest probability).

    Raises:
        AudioError: the file cannot be read.
    """
    seconds = audio.duration(path)
    log_mel = timeline.LongLogMel(model.spec.feature["name"])
    surest = None

    def on_window(window):
        nonlocal surest
        line = f"{format_timestamp(window.end_s)} of {format_timestamp(seconds)}"
        progress(min(window.end_s / seconds, 1), desc=line)
        log_mel.add(window.start_s, window.end_s, window.feature[0])
        if surest is None or window.probabilities.max() > surest.probabilities.max():
            surest = window

    (prediction,) = model.predict([path], batch_size=BATCH, on_window=on_window, warn=warn)
    if prediction.error:
        raise audio.AudioError(prediction.error)
    return prediction, log_mel, surest


def draw_before_after(
    model: inference.TorchPredictor, info: ModelInfo, window: inference.WindowPrediction, name: str
) -> Figure:
    """Draw a window's log-mel before and after the reprogrammer, without padding."""
    seconds = window.end_s - window.start_s
    feature = model.spec.feature["name"]
    frames = max(round(seconds * style.frames_per_second(feature)) - timeline.CUT, 1)
    before, after = model.reprogram_feature(torch.from_numpy(window.feature)[None])
    model_line = escaping.figure(f"{info.conf}, seed {info.seed}")
    song_line = escaping.figure(f"{name}, {span(window)}")
    title = f"{model_line}\n{song_line}"
    with matplotlib.rc_context(style.STYLE):
        return before_after.draw(
            before[0, 0, :frames], after[0, 0, :frames], info.norm, title, feature
        )


def span(window: inference.WindowPrediction) -> str:
    """Format a window's place in the file."""
    return f"{format_timestamp(window.start_s)} to {format_timestamp(window.end_s)}"


def limits(info: ModelInfo, model: inference.Predictor) -> str:
    """State which instruments the model knows, and its accuracy."""
    names = ", ".join(map(escaping.plain, model.classes))
    macro_f1 = "unknown" if info.macro_f1 is None else f"{100 * info.macro_f1:.0f} %"
    return (
        f"This model was trained on {len(model.classes)} instruments and can name no others: "
        f"{names}. Its macro-F1 on unseen clips of its corpus ({info.corpus}) is {macro_f1}. On "
        "other music it may do worse; a probability is the model's guess, not a fact."
    )


def build(app: DemoApp, examples: list[str]) -> Any:
    """Build the page, as gradio.Blocks, with the paths of example songs."""
    gradio = import_gradio()
    with gradio.Blocks(
        title=TITLE, analytics_enabled=False, delete_cache=(KEPT_S, KEPT_S)
    ) as blocks:
        gradio.Markdown(f"# {TITLE}\n{INTRODUCTION}")
        with gradio.Row():
            with gradio.Column(scale=2, min_width=320, elem_classes="beside"):
                song = gradio.Audio(
                    sources=["upload", "microphone"],
                    type="filepath",
                    label="Your song",
                    editable=False,
                    buttons=[],
                )
                if examples:
                    labels = [f"test clip {i + 1}" for i in range(len(examples))]
                    gradio.Examples(examples, song, label="Or one of these", example_labels=labels)
                model = gradio.Dropdown(
                    [(info.label, path) for path, info in app.models.items()],
                    value=next(iter(app.models)),
                    label="Model",
                    info="The best finished run comes first.",
                )
            with gradio.Column(scale=5, min_width=320):
                output = gradio.HTML(app.answer(None, "", None), elem_id="predictions")
        default = gradio.Progress()

        def answer(song, path, progress=default):
            return app.answer(song, path, progress)

        gradio.on(
            [song.change, model.change],
            answer,
            [song, model],
            output,
            concurrency_limit=1,
            trigger_mode="always_last",
            api_visibility="private",
        )
    return blocks


def import_gradio() -> ModuleType:
    """Import gradio; ValueError if it is not installed."""
    try:
        import gradio
    except ImportError as error:
        raise ValueError(
            f"gradio is not installed, expected for the page ({error}); install the extra `demo`, "
            "in a copy of the repository: pip install '.[demo]'"
        ) from error
    return gradio


class LocalOnly:
    """ASGI middleware that serves requests of this computer's own page alone.

    A request must name the server by its local address, which a foreign name that was rebound to
    that address does not, and no other page may have sent it.
    """

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        """Serve a request of the page, and refuse others."""
        from starlette.responses import PlainTextResponse
        from starlette.websockets import WebSocketClose

        response = self.app
        if scope["type"] != "lifespan" and not _is_local(scope):
            address = f"http://{ADDRESS}:{scope['server'][1]}/"
            text = f"This page is for this computer alone: open {address}\n"
            response = PlainTextResponse(text, status_code=403)
            if scope["type"] == "websocket":
                response = WebSocketClose()
        await response(scope, receive, send)


def _is_local(scope):
    """Whether a request names this server by its local address, and comes from its own page."""
    port = scope["server"][1]
    suffix = "" if port == 80 else f":{port}"
    hosts = [value.decode("latin-1") for key, value in scope["headers"] if key == b"host"]
    origins = {value.decode("latin-1") for key, value in scope["headers"] if key == b"origin"}
    if len(hosts) != 1 or hosts[0] not in (f"{ADDRESS}{suffix}", f"localhost{suffix}"):
        return False
    return origins <= {f"http://{hosts[0]}"}


def launch(blocks: Any, port: int | None) -> str:
    """Serve the page to this computer, and return its address.

    Raises:
        OSError: the port is in use.
    """
    from starlette.middleware import Middleware  # comes with gradio

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
            theme=import_gradio().themes.Default(**FONTS),
        )
    except OSError as error:
        ports = port or "from 7860 to 7959"
        raise OSError(f"port {ports}: in use by another program; choose one by --port") from error
    return address
