"""The demo's page: its answers, its errors; a browser gets all of it from this computer."""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from helpers import call, start

from ast_repr import checkpoint, inference, pretrained, run_folder
from ast_repr.commands import demo, demo_page
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
def app(exp):
    return demo_page.DemoApp(demo.find_models(exp, None, inference.load), inference.load)


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
    assert len(models) == 3 and list(models)[-1] == str(pretrained.shipped_model())
    assert len({info.label for info in models.values()}) == 3
    (shipped,) = demo.find_models(None, None, inference.load).values()
    assert shipped.corpus == "synthetic" and 0.5 < shipped.macro_f1 < 1
    assert "shipped" in shipped.label


def test_an_answer_has_probabilities_timeline_and_both_spectrograms(app, sound, unet):
    html = app.answer(str(sound), unet, silent)
    (expected,) = inference.load(unet).predict([sound])
    rows = re.findall(
        r'<tr( class=present)?><th scope="row">(\w+)</th>.*?<td>([\d.]+)</td></tr>', html
    )
    ranked = sorted(zip(expected.probabilities, ["bass", "flute", "voice"], strict=True))[::-1]
    assert [name for _, name, _ in rows] == [name for _, name in ranked]
    assert [value for *_, value in rows] == [f"{value:.2f}" for value, _ in ranked]
    assert [bool(marked) for marked, *_ in rows] == [value >= 0.5 for value, _ in ranked]
    assert html.count("data:image/png;base64,") == 2
    assert "transformer receives the second spectrogram" in html and "is 61 %" in html
    assert "<b>song" not in html


def test_a_model_without_reprogrammer_says_so(app, sound, unet):
    html = app.answer(str(sound), unet.replace("ast_unet", "ast_linear"), silent)
    assert html.count("data:image/png;base64,") == 1
    assert "no reprogrammer: the transformer receives" in html


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
    figure = demo_page.draw_before_after(predictor, app.models[unet], short, sound.name)
    pictures = [axes.images[0].get_array().T for axes in figure.axes[:3]]
    with torch.no_grad():
        before = run[1].normalise(torch.from_numpy(short.feature)[None])
        after = run[1].reprogrammer(before)
    for picture, values in zip(pictures, (before, after, after - before), strict=True):
        np.testing.assert_allclose(picture, values[0, 0, :998], atol=1e-5)


def test_a_song_shorter_than_a_frame_is_shown(app, unet, tmp_path):
    soundfile.write(tmp_path / "dot.wav", [0.5], RATE)
    html = app.answer(str(tmp_path / "dot.wav"), unet, silent)
    assert html.count("data:image") == 2


def test_silence_and_damage_are_reported(app, unet, sound, tmp_path):
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    html = app.answer(str(tmp_path / "silent.wav"), unet, silent)
    assert "silent" in html and "class=present" not in html
    (tmp_path / "cut.wav").write_bytes(sound.read_bytes()[:-200_000])
    html = app.answer(str(tmp_path / "cut.wav"), unet, silent)
    assert re.match(r'<p class="problem" role="alert">cut\.wav: damaged: [^<]* missing', html)
    assert html.count("data:image/png;base64,") == 2


def test_an_error_is_one_line_without_the_path_of_the_upload(app, unet, sound, tmp_path):
    (tmp_path / "text.wav").write_text("no sound")
    html = app.answer(str(tmp_path / "text.wav"), unet, silent)
    assert html.startswith('<p class="problem" role="alert">text.wav: not readable as audio')
    assert "\n" not in html and str(tmp_path) not in html
    (tmp_path / "tiny.safetensors").unlink()
    html = app.answer(str(sound), unet, silent)
    assert 'class="problem"' in html and "Traceback" not in html and html.count("<p") == 1


def test_names_are_text_and_the_likeliest_below_the_threshold_is_named():
    song = inference.FilePrediction(
        "x", 1.0, probabilities=np.array([0.2, 0.4]), silent=np.array([False])
    )
    html = page.instruments(song, predictions.DisplayOptions(["<i>", "snare_drum"], 0.5))
    assert "most likely: snare drum" in html and "&lt;i&gt;" in html and "present" not in html


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
def test_the_served_page_predicts_a_song(server, sound):
    """By the requests of gradio's own page, where there is no browser."""
    client = pytest.importorskip("httpx").Client(base_url=server, timeout=120)
    page_config = client.get("/config").json()
    (dropdown,) = [item for item in page_config["components"] if item["type"] == "dropdown"]
    models = [path for _, path in dropdown["props"]["choices"]]
    assert len(models) == 2 and dropdown["props"]["value"] == models[0]
    (path,) = client.post("/gradio_api/upload", files={"files": sound.open("rb")}).json()
    event = {
        "data": [{"path": path, "meta": {"_type": "gradio.FileData"}}, models[0]],
        "fn_index": page_config["dependencies"][0]["id"],
        "session_hash": "test",
    }
    assert client.post("/gradio_api/queue/join", json=event).status_code == 200
    messages = {}
    with client.stream(
        "GET", "/gradio_api/queue/data", params={"session_hash": "test"}
    ) as response:
        for line in response.iter_lines():
            if line.startswith("data:"):
                message = json.loads(line.removeprefix("data:"))
                messages[message["msg"]] = message
                if message["msg"] == "process_completed":
                    break
    assert "progress" in messages
    (html,) = messages["process_completed"]["output"]["data"]
    assert "<h2>Instruments: " in html and str(sound.parent) not in html


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
        return next((option for option in options if "ast_linear" in option.text), None)

    browser.get(server)
    upload(sound)
    text = wait_for_text("Before and after the reprogrammer")
    assert re.search(r"Instruments: .*\nProbabilities over the whole song \(0:25\)", text)
    sizes = browser.execute_script(
        "return [...document.querySelectorAll('#predictions img')].map(i => i.naturalWidth)"
    )
    assert len(sizes) == 2 and min(sizes) > 500
    browser.find_element(By.CSS_SELECTOR, "input[aria-label=Model]").click()
    wait(find_option).click()
    wait_for_text("no reprogrammer")
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
