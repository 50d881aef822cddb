"""The demo's web page: a song and a model in, instruments, timeline and spectrograms out."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib
import numpy as np
import torch

from .. import atomic, audio, cli, escaping, identity, inference
from ..escaping import markdown, markdown_code
from ..export import model_card
from ..report import before_after, style
from ..viewer import page, predictions, timeline
from ..viewer.predictions import format_timestamp
from .demo_examples import Example
from .predict import name_pictures

ADDRESS = "127.0.0.1"  # reachable from this computer only
BATCH = 4  # windows per forward pass: few, so that the progress moves
KEPT_S = 3600  # how long a running server keeps its copy of a song
TITLE = "Which instruments are in this song?"
PRIVACY = "Everything is computed on this computer; your song is not sent anywhere."
NETWORKS = {
    "ast": "transformer (AST)",
    "passt": "transformer (PaSST)",
    "musicnn": "convolutional network (musicnn)",
    "cnn14": "convolutional network (CNN14)",
    "vggish": "convolutional network (VGGish)",
    "frame_network": "small network",
}
STATISTICS = ("pool", "summary")  # backbones without parameters
DOWNLOADS = {"csv": "CSV", "json": "JSON", "png": "picture"}
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
        """The model's name in the list of models, short enough for a phone."""
        parts = [self.conf]
        if self.shipped:
            parts.append("shipped")
        else:
            parts += [self.corpus, f"seed {self.seed}"]
        if self.protocol != "clean":
            parts.append(self.protocol)
        return escaping.terminal(", ".join(parts))


@dataclass(frozen=True)
class DemoApp:
    """The page's answers.

    Attributes:
        models: {path: ModelInfo} of the models to choose from, the default first.
        load: loads the model in a path.
        find_examples: lists clips to try a model on.
        folder: for files of the page.
        known: {sha256 of an example in use: its known labels}.
    """

    models: dict[str, ModelInfo]
    load: Callable[[str], inference.TorchPredictor]
    find_examples: Callable[[ModelInfo], list[Example]]
    folder: Path
    known: dict[str, dict[str, bool]] = field(default_factory=dict)

    def introduce(self, path: str) -> str:
        """Describe the model in `path`, or the error, in Markdown."""
        try:
            return introduction(self.models[path], self.load(path))
        except cli.EXPECTED as error:
            return markdown(cli.one_line(error))

    def example(self, path: str, index: int) -> str:
        """Write the audio of an example for the model in `path`, and return its path."""
        example = self.find_examples(self.models[path])[index]
        file = example.write(self.folder / "examples")
        self.known[identity.of_file(file)] = example.known
        return str(file)

    def answer(self, song: str | None, path: str, progress: Callable) -> tuple[str, list[Path]]:
        """Predict a song by the model in `path`.

        Returns:
            (the prediction, or the error, as HTML; the files to download, none after an error).
        """
        if song is None:
            return page.note("The instruments of your song will appear here."), []
        name = Path(song).name
        warnings = []
        try:
            progress(0, desc="loading the model")
            model = self.load(path)
            prediction, log_mel, surest = analyse(model, song, progress, warnings.append)
            progress(1, desc="drawing")
            prediction = replace(prediction, path=name)
            known = self.known.get(identity.of_file(song), {})
            html = render(model, self.models[path], prediction, log_mel, surest, known)
            files = write_downloads(model, prediction, log_mel, self.folder / "downloads")
        except cli.EXPECTED as error:
            line = cli.one_line(error).replace(escaping.terminal(song), escaping.terminal(name))
            return page.problem(line), []
        problems = [page.problem(line.replace(song, name)) for line in warnings]
        return "".join(problems) + html, files


def introduction(info: ModelInfo, model: inference.TorchPredictor) -> str:
    """Describe a model in Markdown: its parts, what it was trained on, and its instruments."""
    spec = model.spec
    backbone = spec.backbone
    feature = "The log-mel spectrogram of your song"
    if spec.feature["name"] != "logmel":
        feature = f"A spectrogram ({markdown(str(spec.feature['name']))}) of your song"
    if spec.reprogrammer["name"] != "none":
        name = markdown_code(str(spec.reprogrammer["name"]))
        feature += f", changed by a small trained *reprogrammer* ({name}),"
    state = "fine-tuned" if backbone.finetune else "frozen"
    weights = pretrained_weights(model)
    network = NETWORKS.get(str(backbone.name), f"network {markdown(str(backbone.name))}")
    if backbone.name in STATISTICS:
        way = "is summarised by statistics, without any network"
    elif weights:
        way = f"goes through a {state} {network} with the weights {markdown_code(weights)}"
    elif backbone.finetune:
        way = f"goes through a {network}, trained from scratch"
    else:
        way = f"goes through a {network} with random weights"
    classes = f"{len(model.classes)} instruments"
    mapping = f"A trained head maps the result to {classes}."
    if spec.head.get("kind") == "names":
        mapping = f"Its own classes are mapped to {classes} by name, and nothing was trained."
    names = markdown(", ".join(map(escaping.plain, model.classes)))
    return (
        f"**{markdown(info.label)}.** {feature} {way}. {mapping} {limits(info, model)}\n\n"
        f"<details><summary>It knows {classes} and no others.</summary>\n\n{names}\n\n</details>"
    )


def limits(info: ModelInfo, model: inference.Predictor) -> str:
    """State in Markdown what a model was trained on, and what it can do."""
    if "summary" in model.about:
        return markdown(str(model.about["summary"]))
    sentences = []
    if model.spec.head.get("kind") != "names":
        sentences.append(model_card.corpus_of(info.corpus).limits)
    macro_f1 = "unknown" if info.macro_f1 is None else f"{100 * info.macro_f1:.0f} %"
    sentences.append(f"Macro-F1 on unseen clips of its corpus: {macro_f1}.")
    return " ".join(sentences)


def pretrained_weights(model: inference.Predictor) -> str | None:
    """Return the name of the weights that a backbone started from; None if there are none."""
    exported = model.about.get("backbone")
    if exported is not None:
        return exported["name"]
    backbone = model.spec.backbone
    return backbone.source if backbone.file is not None else None


def render(
    model: inference.TorchPredictor,
    info: ModelInfo,
    prediction: inference.FilePrediction,
    log_mel: timeline.LongLogMel,
    surest: inference.WindowPrediction,
    known: dict[str, bool],
) -> str:
    """Render the results of `analyse` as HTML; `known` as in `Example`."""
    view = predictions.DisplayOptions(model.classes, model.threshold)
    text = (
        f"Each instrument's probability in windows of {model.window.seconds:g} seconds, "
        "above the spectrogram."
    )
    if prediction.attention is not None:
        text += " Within a window, it is multiplied by the attention relative to the largest."
    sections = [
        page.instruments(prediction, view, known),
        page.picture(
            lambda narrow: timeline.draw(prediction, view, log_mel, narrow), "Timeline", text
        ),
    ]
    if model.spec.reprogrammer["name"] != "none" and not prediction.is_silent:
        text = (
            f"{span(surest)}, the window with the largest probability: the network receives the "
            "second spectrogram instead of the first."
        )
        before, after = reprogrammed(model, surest)
        title = escaping.figure(f"{prediction.path}, {span(surest)}")
        feature = model.spec.feature["name"]

        def draw(narrow):
            with matplotlib.rc_context(style.STYLE):
                return before_after.draw(before, after, info.norm, title, feature, narrow)

        sections.append(page.picture(draw, "Before and after the reprogrammer", text))
    return "".join(sections)


def write_downloads(
    model: inference.Predictor,
    prediction: inference.FilePrediction,
    log_mel: timeline.LongLogMel,
    folder: Path,
) -> list[Path]:
    """Write a prediction with its timeline as CSV, JSON and picture, and return their paths."""
    view = predictions.DisplayOptions(model.classes, model.threshold, timeline=True)
    song = Path(prediction.path)
    picture = name_pictures([song], folder)[song]
    for kind in ("csv", "json"):
        text = "".join(predictions.FORMATS[kind]([prediction], view))
        atomic.write_text(picture.with_suffix(f".{kind}"), text)
    timeline.save(timeline.draw(prediction, view, log_mel), picture)
    return [picture.with_suffix(f".{kind}") for kind in DOWNLOADS]


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


def reprogrammed(
    model: inference.TorchPredictor, window: inference.WindowPrediction
) -> tuple[np.ndarray, np.ndarray]:
    """Compute a window's log-mel (T, F) before and after the reprogrammer, without padding."""
    rate = style.frames_per_second(model.spec.feature["name"])
    frames = max(round((window.end_s - window.start_s) * rate) - timeline.CUT, 1)
    before, after = model.reprogram_feature(torch.from_numpy(window.feature)[None])
    return before[0, 0, :frames], after[0, 0, :frames]


def span(window: inference.WindowPrediction) -> str:
    """Format a window's place in the file."""
    return f"{format_timestamp(window.start_s)} to {format_timestamp(window.end_s)}"


def build(app: DemoApp) -> Any:
    """Build the page, as gradio.Blocks."""
    gradio = import_gradio()
    first = next(iter(app.models))

    def list_examples(path):
        """Return properties of the list of examples."""
        info = app.models[path]
        samples = []
        for number, example in enumerate(app.find_examples(info), 1):
            samples.append([f"{number}: {example.label}"])
        label = "Or a clip that the model was not trained on, with its instruments"
        if not samples:
            label = (
                f"Clips of its corpus, {escaping.terminal(info.corpus)}, are not on this computer"
            )
        return {"samples": samples, "label": label}

    def show_model(path):
        return app.introduce(path), gradio.update(**list_examples(path))

    def choose(index, path):
        try:
            return app.example(path, index)
        except cli.EXPECTED as error:
            raise gradio.Error(cli.one_line(error)) from error

    with gradio.Blocks(
        title=TITLE, analytics_enabled=False, delete_cache=(KEPT_S, KEPT_S)
    ) as blocks:
        gradio.Markdown(f"# {TITLE}\n{PRIVACY}")
        introduction = gradio.Markdown(app.introduce(first))
        with gradio.Row():
            with gradio.Column(scale=2, min_width=320, elem_classes="beside"):
                song = gradio.Audio(
                    sources=["upload", "microphone"],
                    type="filepath",
                    label="Your song",
                    editable=False,
                    buttons=[],
                )
                examples = gradio.Dataset(
                    components=["textbox"], type="index", **list_examples(first)
                )
                model = gradio.Dropdown(
                    [(info.label, path) for path, info in app.models.items()],
                    value=first,
                    label="Model",
                )
            with gradio.Column(scale=5, min_width=320):
                with gradio.Row():
                    buttons = [
                        gradio.DownloadButton(f"↓ {kind}", visible=False, size="sm", min_width=80)
                        for kind in DOWNLOADS.values()
                    ]
                output = gradio.HTML(app.answer(None, "", None)[0], elem_id="predictions")
        default = gradio.Progress()

        def answer(song, path, progress=default):
            html, files = app.answer(song, path, progress)
            updates = [gradio.DownloadButton(visible=False) for _ in buttons]
            if files:
                updates = [gradio.DownloadButton(value=file, visible=True) for file in files]
            return html, *updates

        gradio.on(
            [song.change, model.change],
            answer,
            [song, model],
            [output, *buttons],
            concurrency_limit=1,
            trigger_mode="always_last",
            show_progress_on=output,
            api_visibility="private",
        )
        model.change(show_model, model, [introduction, examples], api_visibility="private")
        examples.click(choose, [examples, model], song, api_visibility="private")
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
