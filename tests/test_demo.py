"""The page: what it shows of a song, what it says of what cannot be heard, and that a real browser gets all of it from this computer alone."""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import hears_ctrl_c

import demo
from ast_repr import checkpoint, inference, runs
from ast_repr.run_folder import RunFolder
from ast_repr.viewer import page, predictions

SCRIPT = Path(demo.__file__)
RATE = 16_000
BROWSER, DRIVER = (
    shutil.which("chromium") or shutil.which("chromium-browser"),
    shutil.which("chromedriver"),
)


def silent(*_, **__):
    """Progress that nobody looks at."""


@pytest.fixture
def exp(run, tmp_path):
    """Two finished runs: a U-Net, the newest, and one without reprogrammer."""
    folder, _ = run
    state = checkpoint.load(folder / "best.valid.macro_f1.pt")
    plain = state["about"] | {"spec": state["about"]["spec"] | {"reprogrammer": {"name": "none"}}}
    linear = {name: tensor for name, tensor in state["learned"].items() if name.startswith("head.")}
    made = {"ast_linear": {"learned": linear, "epoch": 1, "about": plain}, "ast_unet": state}
    for conf, one in made.items():
        target = tmp_path / "exp" / "tiny" / conf / "seed0"
        checkpoint.save(target / "best.valid.macro_f1.pt", one)
        values = {
            "corpus": "tiny",
            "protocol": "clean",
            "conf": conf,
            "row": conf.upper(),
            "seed": 0,
            "feature": "logmel",
            "norm": "backbone",
        }
        values |= {"metrics": {"macro_f1": 0.61}, "backbone": {"weights": "pretrained"}}
        values["reprogrammer"] = one["about"]["spec"]["reprogrammer"]["name"]
        RunFolder(target).write_results(values)
    return tmp_path / "exp"


@pytest.fixture
def listener(exp):
    return demo.DemoApp(
        {str(folder): demo.read(folder) for folder in runs.finished([exp])}, inference.load
    )


@pytest.fixture
def sound(tmp_path):
    """A song of 25 s with a name that would be HTML."""
    path = tmp_path / "a <b>song.wav"
    soundfile.write(
        path,
        np.random.default_rng(0).uniform(-0.5, 0.5, 25 * RATE) * np.linspace(0, 1, 25 * RATE) ** 4,
        RATE,
        subtype="FLOAT",
    )
    return path


def folder_of(listener, conf):
    return next(folder for folder in listener.runs if conf in folder)


def test_runs_are_found_below_any_folder(exp):
    found = runs.finished([exp, exp.parent / "absent"])
    assert [folder.parent.name for folder in found] == ["ast_linear", "ast_unet"]
    assert runs.finished([found[1]]) == [found[1]]
    for damaged in ("", "[]", "{}"):
        (found[1] / "results.json").write_text(damaged)
        assert runs.finished([exp]) == found[:1]


def test_runs_of_both_protocols_can_be_told_apart(listener):
    (one, *_) = listener.runs.values()
    assert demo.label(one) != demo.label(
        demo.results.Run(one.folder, one.results | {"protocol": "paper"}, [])
    )


def test_an_answer_has_probabilities_timeline_and_both_spectrograms(listener, sound):
    html = listener.answer(str(sound), folder_of(listener, "ast_unet"), silent)
    expected = list(demo.inference.load(folder_of(listener, "ast_unet")).predict_files([sound]))
    mean = np.mean([heard.probabilities for heard in expected], axis=0)
    rows = re.findall(
        r'<tr( class=present)?><th scope="row">(\w+)</th>.*?<td>([\d.]+)</td></tr>', html
    )
    order = np.argsort(-mean)
    assert [name for _, name, _ in rows] == [["bass", "flute", "voice"][i] for i in order]
    assert [value for *_, value in rows] == [f"{mean[i]:.2f}" for i in order]
    assert [bool(marked) for marked, *_ in rows] == [mean[i] >= 0.5 for i in order]
    assert (
        html.count("data:image/png;base64,") == 2
        and "The transformer hears the second picture" in html
        and "macro-F1 is 61 %" in html
    )
    assert "<b>song" not in html


def test_a_run_without_reprogrammer_says_so(listener, sound):
    html = listener.answer(str(sound), folder_of(listener, "ast_linear"), silent)
    assert (
        html.count("data:image/png;base64,") == 1
        and "no reprogrammer. The transformer gets" in html
    )
    listener.runs[folder_of(listener, "ast_linear")]["backbone"]["weights"] = "none"
    assert "no reprogrammer. The classifier gets" in listener.answer(
        str(sound), folder_of(listener, "ast_linear"), silent
    )


def test_the_surest_ten_seconds_are_shown_before_and_after(listener, sound, run):
    folder, seen = folder_of(listener, "ast_unet"), []
    predictor = inference.load(folder)
    _, _, surest = demo.analyse(
        predictor, sound, lambda done, desc: seen.append((done, desc)), print
    )
    windows = list(predictor.predict_files([sound]))
    assert (
        surest.start_s
        == windows[int(np.argmax([heard.probabilities.max() for heard in windows]))].start_s
    )
    assert [done for done, _ in seen] == [0.4, 0.8, 1.0] and seen[1][1] == "heard 0:20 of 0:25"
    short = next(predictor.predict_files([sound], hop=RATE))
    figure = demo.before_and_after(predictor, listener.runs[folder], short, sound.name)
    pictures = [axes.images[0].get_array().T for axes in figure.axes[:3]]
    with torch.no_grad():
        before = run[1].normalise(torch.from_numpy(short.feature)[None])
        after = run[1].reprogrammer(before)
    for picture, values in zip(pictures, (before, after, after - before)):
        np.testing.assert_allclose(picture, values[0, 0, :998], atol=1e-5)


def test_a_song_shorter_than_a_frame_is_shown(listener, tmp_path):
    soundfile.write(tmp_path / "dot.wav", [0.5], RATE)
    assert (
        listener.answer(str(tmp_path / "dot.wav"), folder_of(listener, "ast_unet"), silent).count(
            "data:image"
        )
        == 2
    )


def test_silence_and_damage_are_told(listener, sound, tmp_path):
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    html = listener.answer(str(tmp_path / "silent.wav"), folder_of(listener, "ast_unet"), silent)
    assert "silent" in html and "class=present" not in html
    (tmp_path / "cut.wav").write_bytes(sound.read_bytes()[:-200_000])
    html = listener.answer(str(tmp_path / "cut.wav"), folder_of(listener, "ast_unet"), silent)
    assert re.match(r'<p class="problem" role="alert">cut\.wav: damaged: [^<]* missing', html)
    assert html.count("data:image/png;base64,") == 2


def test_what_cannot_be_heard_is_told_in_one_line(listener, sound, tmp_path):
    (tmp_path / "text.wav").write_text("no sound")
    html = listener.answer(str(tmp_path / "text.wav"), folder_of(listener, "ast_unet"), silent)
    assert (
        html.startswith('<p class="problem" role="alert">text.wav: not readable as audio')
        and "\n" not in html
        and str(tmp_path) not in html
    )
    (tmp_path / "tiny.safetensors").unlink()
    html = listener.answer(str(sound), folder_of(listener, "ast_unet"), silent)
    assert 'class="problem"' in html and "Traceback" not in html and html.count("<p") == 1


def test_names_are_text_and_what_is_below_the_threshold_is_said():
    song = predictions.FilePrediction("x", 1.0, None, None, np.array([0.2, 0.4]))
    html = page.instruments(song, predictions.DisplayOptions(["<i>", "snare_drum"], 0.5))
    assert (
        "Heard: nothing from the threshold on; the most likely: snare drum" in html
        and "&lt;i&gt;" in html
        and "present" not in html
    )


def call(*arguments, **env):
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={"PATH": "", **env},
    )


@pytest.mark.slow
def test_no_run_no_gradio_and_a_taken_port_are_one_line_each(exp, tmp_path):
    told = call("--exp", tmp_path / "empty")
    assert told.returncode == 1 and told.stderr.startswith(
        f"error: no finished run under {tmp_path}/empty; make one by: bash "
    )
    (tmp_path / "gradio.py").write_text("raise ImportError('No module named gradio')")
    without = call("--exp", exp, PYTHONPATH=str(tmp_path))
    assert (
        without.returncode == 1
        and without.stderr.startswith("error: the page needs gradio")
        and "pip install -e" in without.stderr
    )
    assert call("--port", "70000").returncode == 2
    pytest.importorskip("gradio")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = call("--exp", exp, "--port", port)
    assert (
        refused.returncode == 1
        and refused.stderr.startswith(f"error: port {port}: ")
        and "by --port" in refused.stderr
    )
    assert all(one.stderr.count("\n") == 1 for one in (told, without, refused))


@pytest.fixture
def empty_page():
    """Address and port of a page without anything on it, served by gradio."""
    gradio = pytest.importorskip("gradio", reason="needs the extra `demo`")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with gradio.Blocks(analytics_enabled=False) as blocks:
        gradio.Markdown("Here.")
    demo.launch(blocks, port)
    yield port
    blocks.close(verbose=False)


def ask(port, path="/", method="GET", **headers):
    """Status of a request with these headers in place of the usual ones."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.putrequest(method, path, skip_host=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    status = connection.getresponse().status
    connection.close()
    return status


def test_the_page_answers_its_own_host_and_origin_alone(empty_page):
    """Another host is what a foreign name says that was rebound to 127.0.0.1."""
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
    """The address of the page with the two runs; it has to end by Ctrl-C, and to leave no song behind."""
    pytest.importorskip("gradio", reason="needs the extra `demo`")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, SCRIPT, "--exp", exp, "--port", str(port), "--device", "cpu"]
    copies = tmp_path / "copies"
    copies.mkdir()
    env = os.environ | {"TMPDIR": str(copies)}
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hears_ctrl_c,
        env=env,
    )
    try:
        yield re.search(r"http://127.0.0.1:\d+/", process.stdout.readline())[0]
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
        assert (
            process.returncode == 130
            and told.splitlines()[-1] == "interrupted"
            and "Traceback" not in told
        )
        assert not list(copies.rglob("*.wav"))
    finally:
        process.kill()


@pytest.fixture
def browser():
    """Headless Chromium that finds no other computer and writes down what it asks for."""
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
def test_a_browser_hears_a_song_switches_the_model_and_reads_of_a_bad_file(
    server, browser, sound, tmp_path
):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    def wait(done):
        return WebDriverWait(browser, 120).until(done)

    def told(text):
        return wait(
            lambda _: (
                text in browser.find_element(By.ID, "found").text
                and browser.find_element(By.ID, "found").text
            )
        )

    def upload(path):
        wait(lambda _: browser.find_elements(By.CSS_SELECTOR, "input[type=file]"))[0].send_keys(
            str(path)
        )

    browser.get(server)
    upload(sound)
    text = told("What the reprogrammer did")
    assert (
        re.search(r"Heard: .*\nProbabilities over the whole song \(0:25\)", text)
        and "The transformer hears the second picture" in text
    )
    sizes = browser.execute_script(
        "return [...document.querySelectorAll('#found img')].map(image => image.naturalWidth)"
    )
    assert len(sizes) == 2 and min(sizes) > 500
    browser.find_element(By.CSS_SELECTOR, "input[aria-label=Model]").click()
    wait(
        lambda _: [
            one
            for one in browser.find_elements(By.CSS_SELECTOR, "[role=option]")
            if "ast_linear" in one.text
        ]
    )[0].click()
    told("this run has no reprogrammer")
    (tmp_path / "text.wav").write_text("no sound")
    browser.get(server)
    upload(tmp_path / "text.wav")
    assert re.fullmatch(
        r"text\.wav: not readable as audio \(.*\); .*",
        told("not readable").strip(),
    )
    events = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    asked = {
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    }
    assert asked and not [url for url in asked if not url.startswith((server, "data:", "blob:"))]
