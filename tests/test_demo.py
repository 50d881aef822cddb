"""The demo's page: its answers, its errors; a browser gets all of it from this computer."""

import csv
import http.client
import json
import os
import re
import shutil
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from helpers import call, start

from ast_repr import audio, checkpoint, inference, manifest, pretrained, run_folder
from ast_repr.commands import demo, demo_page
from ast_repr.commands.demo_examples import Example
from ast_repr.corpora import synthetic
from ast_repr.run_folder import RunFolder
from ast_repr.viewer import page, predictions, timeline

SCRIPT = Path(__file__).parents[1] / "src" / "demo.py"
RATE = 16_000
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")


def silent(*_, **__):
    """Progress that nobody looks at."""


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Small pictures: their drawing takes most of the time."""
    monkeypatch.setattr(timeline, "DPI", 30)


@pytest.fixture
def exp(run, tmp_path):
    """Two finished runs: a U-Net, and one without reprogrammer."""
    state = checkpoint.load(run[0] / "best.valid.macro_f1.pt")
    about = state["about"]
    plain = about | {"spec": about["spec"] | {"reprogrammer": {"name": "none"}}}
    head = {name: tensor for name, tensor in state["learned"].items() if name.startswith("head.")}
    states = {"ast_unet": state, "ast_linear": {"learned": head, "epoch": 1, "about": plain}}
    for conf, content in states.items():
        folder = RunFolder.of(tmp_path / "exp" / "tiny", conf, 0)
        checkpoint.save(folder.path / "best.valid.macro_f1.pt", content)
        folder.write_results(
            {
                "corpus": "tiny",
                "protocol": "clean",
                "conf": conf,
                "seed": 0,
                "feature": "logmel",
                "norm": "backbone",
                "metrics": {"macro_f1": 0.61},
            }
        )
    return tmp_path / "exp"


@pytest.fixture
def app(exp, tmp_path):
    models = demo.find_models(exp, None, inference.load)
    return demo_page.DemoApp(models, inference.load, no_examples, tmp_path / "page")


def no_examples(info):
    return []


@pytest.fixture
def unet(exp):
    return str(exp / "tiny" / "ast_unet" / "seed0")


@pytest.fixture
def sound(tmp_path):
    """A song of 25 s with a name that would be HTML."""
    path = tmp_path / "a <b>song.wav"
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 25 * RATE)
    soundfile.write(path, noise * np.linspace(0, 1, 25 * RATE) ** 4, RATE, subtype="FLOAT")
    return path


def test_finished_runs_are_found_below_any_folder(exp):
    found = run_folder.finished([exp, exp.parent / "absent"])
    assert [run.results["conf"] for run in found] == ["ast_linear", "ast_unet"]
    assert run_folder.finished([found[1].folder.path]) == [found[1]]
    for damaged in ("", "[]", "{}"):
        found[1].folder.results.write_text(damaged)
        assert run_folder.finished([exp]) == found[:1]


def test_the_shipped_model_is_offered_beside_the_runs_of_the_checkout(exp):
    checkout = exp.parent
    exp.rename(checkout / "moved")
    (checkout / "egs" / "mine").mkdir(parents=True)
    (checkout / "moved").rename(checkout / "egs" / "mine" / "exp")
    models = demo.find_models(None, checkout, inference.load)
    assert len(models) == 3 and next(iter(models)) == str(pretrained.shipped_model())
    assert len({info.label for info in models.values()}) == 3
    (shipped,) = demo.find_models(None, None, inference.load).values()
    assert shipped.corpus == "rendered" and 0.5 < shipped.macro_f1 < 1
    assert "shipped" in shipped.label


def test_an_answer_has_probabilities_timeline_and_both_spectrograms(app, sound, unet):
    html, files = app.answer(str(sound), unet, silent)
    (expected,) = inference.load(unet).predict([sound])
    rows = re.findall(
        r'<tr( class=present)?><th scope="row">(\w+)</th>.*?<td>([\d.]+)</td><td></td></tr>', html
    )
    ranked = sorted(zip(expected.probabilities, ["bass", "flute", "voice"], strict=True))[::-1]
    assert [name for _, name, _ in rows] == [name for _, name in ranked]
    assert [value for *_, value in rows] == [f"{value:.2f}" for value, _ in ranked]
    assert [bool(marked) for marked, *_ in rows] == [value >= 0.5 for value, _ in ranked]
    assert html.count("<picture") == 2 and html.count("data:image/png;base64,") == 4
    assert "the network receives the second spectrogram" in html
    assert "<b>song" not in html
    assert [file.name for file in files] == [
        f"a_b_song.instruments.{kind}" for kind in ("csv", "json", "png")
    ]


def test_downloads_hold_all_windows_without_the_path_of_the_upload(app, sound, unet):
    _, (table, record, picture) = app.answer(str(sound), unet, silent)
    (song,) = json.loads(record.read_text())
    (expected,) = inference.load(unet).predict([sound])
    assert song["file"] == sound.name and len(song["timeline"]) == len(expected.timeline) == 3
    rows = list(csv.DictReader(table.open()))
    assert len(rows) == 9 and rows[0]["file"] == sound.name
    np.testing.assert_allclose(
        [float(row["probability"]) for row in rows], expected.timeline.ravel(), atol=1e-6
    )
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_model_without_reprogrammer_has_one_figure(app, sound, unet):
    linear = unet.replace("ast_unet", "ast_linear")
    html, _ = app.answer(str(sound), linear, silent)
    assert html.count("<picture") == 1 and "reprogrammer" not in html


def test_the_introduction_describes_the_model(app, unet):
    text = app.introduce(unet)
    assert "changed by a small trained *reprogrammer* (`unet`)" in text
    source = inference.load(unet).spec.backbone.source
    assert f"frozen transformer (AST) with the weights `{source}`" in text
    assert "3 instruments" in text and "bass, flute, voice" in text
    assert "trained on tiny; on other music" in text and "61 %" in text
    linear = unet.replace("ast_unet", "ast_linear")
    assert "reprogrammer" not in app.introduce(linear)
    assert "frozen transformer" in app.introduce(linear)
    (Path(unet) / "best.valid.macro_f1.pt").write_text("damaged")
    assert "best.valid.macro" in app.introduce(unet)


def test_the_introduction_tells_weights_networks_and_heads_apart(app, unet):
    model = inference.load(unet)
    info = app.models[unet]

    def text(head=None, about=None, **backbone):
        spec = replace(model.spec, backbone=replace(model.spec.backbone, **backbone))
        model_like = SimpleNamespace(
            spec=spec if head is None else replace(spec, head=head),
            about=about or {},
            classes=["bass"],
        )
        return demo_page.introduction(info, model_like)

    assert "random weights" in text(file=None)
    assert "fine-tuned transformer" in text(finetune=True)
    assert "small network, trained from scratch" in text(
        name="frame_network", file=None, finetune=True
    )
    assert "statistics, without any network" in text(name="summary", file=None)
    assert "convolutional network (musicnn) with the weights" in text(name="musicnn")
    zero_shot = text(head={"name": "labelmap", "kind": "names"})
    assert "nothing was trained" in zero_shot and "trained on" not in zero_shot
    told = text(about={"summary": "It fails on *oboes*."})
    assert r"It fails on \*oboes\*." in told and "Macro-F1" not in told


def test_examples_of_the_built_in_corpus_are_rendered_with_their_truth(app, unet, tmp_path):
    shipped = replace(app.models[unet], shipped=True)
    (example, *others) = demo.find_examples(shipped, None)
    assert demo.find_examples(replace(app.models[unet], corpus="synthetic-300"), None)
    assert len(others) == 2 and example.known == synthetic.example_truth(0)
    assert example.label == ", ".join(name for name, sounds in example.known.items() if sounds)
    first = example.write(tmp_path / "a").read_bytes()
    assert first == example.write(tmp_path / "b").read_bytes()
    waveform = audio.decode(tmp_path / "a" / "audio" / "000" / "000000_0.ogg")
    assert len(waveform) == pytest.approx(audio.CLIP_SAMPLES, abs=2)
    assert not audio.is_silent(waveform)


def test_examples_of_a_prepared_corpus_are_its_test_clips(app, unet, sound, tmp_path):
    info = app.models[unet]
    assert demo.find_examples(info, tmp_path) == demo.find_examples(info, None) == []
    data = tmp_path / "egs" / "mine" / "data" / "tiny"
    data.mkdir(parents=True)
    split = {"train": "x", "valid": "y", "test": "z"}
    clips = [
        manifest.Clip(name, group, str(sound), 5.0, name, {"bass": 0.9, "voice": 0.1})
        for name, group in split.items()
    ]
    missing = manifest.Clip("c", "v", str(tmp_path / "none.wav"), 0.0, "test", {"bass": 1.0})
    manifest.write(data, [*clips, missing], ["bass", "voice"])
    (example,) = demo.find_examples(info, tmp_path)
    assert example.known == {"bass": True, "voice": False} and example.label == "bass"
    whole = audio.decode(sound)
    cut = audio.decode(example.write(tmp_path / "page"))
    np.testing.assert_allclose(cut, whole[5 * RATE : 15 * RATE], atol=1e-4)


def test_the_answer_marks_what_an_example_is_known_to_have(app, unet, sound):
    known = {"bass": True, "voice": False}
    app = replace(app, find_examples=lambda info: [Example(known, lambda folder: sound)])
    html, _ = app.answer(app.example(unet, 0), unet, silent)
    marks = dict(re.findall(r'<th scope="row">(\w+)</th>.*?<td>[\d.]+</td><td>(.?)</td>', html))
    assert marks == {"bass": "✓", "voice": "–", "flute": ""}
    assert "By its labels the clip has bass " in html


def test_the_surest_ten_seconds_are_shown_before_and_after(app, sound, unet, run):
    predictor = inference.load(unet)
    seen = []
    _, _, surest = demo_page.analyse(
        predictor, str(sound), lambda done, desc: seen.append((done, desc)), print
    )
    windows = list(predictor.predict_windows([sound]))
    peaks = [window.probabilities.max() for window in windows]
    assert surest.start_s == windows[int(np.argmax(peaks))].start_s
    assert [done for done, _ in seen] == [0.4, 0.8, 1.0] and "0:20 of 0:25" in seen[1][1]
    short = next(predictor.predict_windows([sound], hop_s=1))
    pair = demo_page.reprogrammed(predictor, short)
    with torch.no_grad():
        before = run[1].normalise(torch.from_numpy(short.feature)[None])
        after = run[1].reprogrammer(before)
    for shown, values in zip(pair, (before, after), strict=True):
        np.testing.assert_allclose(shown, values[0, 0, :998], atol=1e-5)


def test_a_song_shorter_than_a_frame_is_shown(app, unet, tmp_path):
    soundfile.write(tmp_path / "dot.wav", [0.5], RATE)
    html, _ = app.answer(str(tmp_path / "dot.wav"), unet, silent)
    assert html.count("<picture") == 2


def test_silence_and_damage_are_reported(app, unet, sound, tmp_path):
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    html, _ = app.answer(str(tmp_path / "silent.wav"), unet, silent)
    assert "is silent" in html and "<tr" not in html and html.count("<picture") == 1
    (tmp_path / "cut.wav").write_bytes(sound.read_bytes()[:-200_000])
    html, _ = app.answer(str(tmp_path / "cut.wav"), unet, silent)
    assert re.match(r'<p class="problem" role="alert">cut\.wav: damaged: [^<]* missing', html)
    assert html.count("<picture") == 2


def test_an_error_is_one_line_without_the_path_of_the_upload(app, unet, sound, tmp_path):
    (tmp_path / "text.wav").write_text("no sound")
    html, files = app.answer(str(tmp_path / "text.wav"), unet, silent)
    assert html.startswith('<p class="problem" role="alert">text.wav: not readable as audio')
    assert "\n" not in html and str(tmp_path) not in html and not files
    (tmp_path / "tiny.safetensors").unlink()
    html, _ = app.answer(str(sound), unet, silent)
    assert 'class="problem"' in html and "Traceback" not in html and html.count("<p") == 1


def test_names_are_text_and_none_below_the_threshold_is_named():
    song = inference.FilePrediction(
        "x", 1.0, probabilities=np.array([0.2, 0.4]), silent=np.array([False])
    )
    html = page.instruments(song, predictions.DisplayOptions(["<i>", "snare_drum"], 0.5))
    assert "the model names none" in html and "<b>snare" not in html
    assert "&lt;i&gt;" in html and "present" not in html


def test_a_folder_without_runs_is_named(tmp_path, capsys):
    code, _, err = call(capsys, demo, "--exp", tmp_path / "empty")
    assert code == 1 and f"{tmp_path}/empty: no finished run" in err and err.count("\n") == 1
    assert call(capsys, demo, "--port", "70000")[0] == 2


def test_missing_gradio_is_one_line(exp, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    code, _, err = call(capsys, demo, "--exp", exp)
    assert code == 1 and "gradio" in err and ".[demo]" in err and err.count("\n") == 1


def test_a_port_in_use_is_one_line(exp, capsys):
    pytest.importorskip("gradio", reason="needs the extra `demo`")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, err = call(capsys, demo, "--exp", exp, "--port", port)
    assert code == 1 and f"port {port}: " in err and "--port" in err and err.count("\n") == 1


@pytest.fixture
def empty_page():
    """Address and port of a page without anything on it, served by gradio."""
    gradio = pytest.importorskip("gradio", reason="needs the extra `demo`")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with gradio.Blocks(analytics_enabled=False) as blocks:
        gradio.Markdown("Here.")
    demo_page.launch(blocks, port)
    yield port
    blocks.close(verbose=False)


def ask(port, path="/", method="GET", **headers):
    """Status of a request with these headers in place of the usual ones."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.putrequest(method, path, skip_host=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    status = connection.getresponse().status
    connection.close()
    return status


def test_the_page_serves_its_own_host_and_origin_alone(empty_page):
    """A foreign name that was rebound to 127.0.0.1 is another host."""
    port = empty_page
    api = ("/gradio_api/call/x", "POST")
    for host in (f"127.0.0.1:{port}", f"localhost:{port}"):
        assert ask(port, Host=host) == 200
        assert ask(port, Host=host, Origin=f"http://{host}") == 200
        assert ask(port, *api, Host=host, Origin=f"http://{host}") != 403
        for origin in ("http://evil.example", "null", "http://localhost:1", f"https://{host}"):
            assert ask(port, Host=host, Origin=origin) == 403
            assert ask(port, *api, Host=host, Origin=origin) == 403
    for host in (
        f"evil.example:{port}",
        "evil.example",
        f"127.0.0.1.evil.example:{port}",
        f"localhost:{port + 1}",
        "",
    ):
        assert ask(port, Host=host) == 403
        assert ask(port, "/gradio_api/info", Host=host) == 403
        assert ask(port, *api, Host=host, Origin=f"http://{host}") == 403


@pytest.fixture
def server(exp, tmp_path):
    """The address of the page with two runs; it must end by Ctrl-C, and leave no song behind."""
    pytest.importorskip("gradio", reason="needs the extra `demo`")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, SCRIPT, "--exp", exp, "--port", port, "--device", "cpu"]
    copies = tmp_path / "copies"
    copies.mkdir()
    process = start(command, env=os.environ | {"TMPDIR": str(copies)})
    try:
        yield re.search(r"http://127.0.0.1:\d+/", process.stdout.readline())[0]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 130 and "Traceback" not in err
        assert err.splitlines()[-1] == "interrupted"
        assert not list(copies.rglob("*.wav"))
    finally:
        process.kill()


@pytest.mark.slow
def test_the_served_page_predicts_a_song_and_describes_another_model(server, sound):
    """By the requests of gradio's own page, where there is no browser."""
    client = pytest.importorskip("httpx").Client(base_url=server, timeout=120)
    page_config = client.get("/config").json()
    (dropdown,) = [item for item in page_config["components"] if item["type"] == "dropdown"]
    models = [path for _, path in dropdown["props"]["choices"]]
    assert len(models) == 2 and dropdown["props"]["value"] == models[0]

    def outputs(event, *data):
        """Messages of an event, the last of which has its outputs."""
        job = {
            "data": data,
            "fn_index": page_config["dependencies"][event]["id"],
            "session_hash": f"event{event}",
        }
        assert client.post("/gradio_api/queue/join", json=job).status_code == 200
        messages = {}
        url = f"/gradio_api/queue/data?session_hash=event{event}"
        with client.stream("GET", url) as response:
            for line in response.iter_lines():
                if line.startswith("data:"):
                    message = json.loads(line.removeprefix("data:"))
                    messages[message["msg"]] = message
                    if message["msg"] == "process_completed":
                        break
        assert messages["process_completed"]["success"], messages
        return messages, messages["process_completed"]["output"]["data"]

    (path,) = client.post("/gradio_api/upload", files={"files": sound.open("rb")}).json()
    song = {"path": path, "meta": {"_type": "gradio.FileData"}}
    messages, (html, *files) = outputs(0, song, models[0])
    assert "progress" in messages
    assert "<h2>Instruments</h2>" in html and str(sound.parent) not in html
    assert [Path(file["value"]["path"]).suffix for file in files] == [".csv", ".json", ".png"]
    assert "instrument,probability" in client.get(files[0]["value"]["url"]).text
    _, (introduction, examples) = outputs(1, models[1])
    assert "ast_unet, tiny" in introduction and examples["samples"] == []
    assert "tiny, are not on this computer" in examples["label"]


@pytest.fixture
def browser():
    """Headless Chromium that reaches no other computer and logs its requests."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs the extra `test-heavy`")
    if not (BROWSER and DRIVER):
        pytest.skip("needs Chromium and its driver (Debian: apt install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.mark.slow
def test_a_browser_shows_a_song_another_model_and_an_error(browser, server, sound, tmp_path):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    def wait(condition):
        return WebDriverWait(browser, 120).until(lambda _: condition())

    def wait_for_text(text):
        def find():
            shown = browser.find_element(By.ID, "predictions").text
            return shown if text in shown else None

        return wait(find)

    def upload(path):
        inputs = wait(lambda: browser.find_elements(By.CSS_SELECTOR, "input[type=file]"))
        inputs[0].send_keys(str(path))

    def find_option():
        options = browser.find_elements(By.CSS_SELECTOR, "[role=option]")
        return next((option for option in options if "ast_unet" in option.text), None)

    browser.get(server)
    upload(sound)
    text = wait_for_text("Timeline")
    assert re.search(r"Instruments\s+The .+\s+Probabilities, .* over the whole song \(0:25\)", text)
    browser.find_element(By.CSS_SELECTOR, "input[aria-label=Model]").click()
    wait(find_option).click()
    wait_for_text("Before and after the reprogrammer")
    sizes = browser.execute_script(
        "return [...document.querySelectorAll('#predictions img')].map(i => i.naturalWidth)"
    )
    assert len(sizes) == 2 and min(sizes) > 500
    (tmp_path / "text.wav").write_text("no sound")
    browser.get(server)
    upload(tmp_path / "text.wav")
    assert wait_for_text("not readable").startswith("text.wav: ")
    urls = set()
    for entry in browser.get_log("performance"):
        event = json.loads(entry["message"])["message"]
        if event["method"] == "Network.requestWillBeSent":
            urls.add(event["params"]["request"]["url"])
    assert urls and not [url for url in urls if not url.startswith((server, "data:", "blob:"))]
