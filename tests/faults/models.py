"""Model files that mean harm, in every format and section; and YAML that blows up.

Each model file is valid but for what it says of itself: its seal is right. What it tries leaves a
mark, if it is run. A trial has survived if src/predict.py refuses the file in one line, or if what
it says changes nothing.
"""

import copy
import json
import os
import pickle
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import verdict
from processes import Called, Running, isolated, stage
from verdict import Tally, Trial
from workshop import CONF_DIR, ROOT, RUN, Workshop

from ast_repr import checkpoint, identity
from ast_repr.export import onnx as graph
from ast_repr.export import safetensors

LIMIT_S = 60.0
MEMORY = 12 * 2**30  # bytes of address space; torch's libraries take some of them
DEPTH = 100_000  # of nested brackets
FORMATS = (".pt", ".safetensors", ".onnx")
SECTIONS = ("feature", "reprogrammer", "backbone", "head", "method")
RAW = ("\x1b[2J", "a\nb", "\ra", "\u202ea", "\x9b2J")  # texts that no terminal may get as they are


@dataclass(frozen=True)
class Case:
    """A model file that means harm.

    Attributes:
        group: the kind of harm.
        name: of the case.
        spoil: changes what a model file says of itself (`about`), in place.
        formats: suffixes of the formats that it is tried in.
    """

    group: str
    name: str
    spoil: Callable[[dict], None]
    formats: tuple[str, ...] = FORMATS


class Bench:
    """Good model files of each format, and the places of the bad ones."""

    def __init__(self, workshop: Workshop):
        self.workshop = workshop
        self.folder = workshop.work / "hostile"
        self.song = workshop.work / "song.ogg"
        self.mark = workshop.work / "EXECUTED"
        self.folder.mkdir()
        shared = workshop.work / "shared"
        self.state = checkpoint.load(next((workshop.work / RUN).glob("best.*.pt")))
        self.exported = safetensors.load(shared / "model.safetensors")
        self.graph = shared / "model.onnx"
        _write_module(self.folder / "evil.py", self.mark)
        sys.path.insert(0, str(self.folder))

    def about(self, suffix: str) -> dict:
        """What a good file of a format says of itself: a copy."""
        if suffix == ".pt":
            return copy.deepcopy(self.state["about"])
        return copy.deepcopy(self.exported["about"])

    def write(self, suffix: str, about: object) -> Path:
        """Write a file of a format, sealed, that says `about` of itself."""
        path = self.folder / f"model{suffix}"
        path.unlink(missing_ok=True)
        if suffix == ".pt":
            checkpoint.save(path, self.state | {"about": about})
        elif suffix == ".safetensors":
            safetensors.save(path, self.exported["learned"], about)
        else:
            _write_graph(path, self.graph, about)
        return path

    def predict(self, path: Path) -> Called:
        """src/predict.py with a model, in a separate process."""
        options = ["--model", path, "--device", "cpu", self.song]
        return isolated(lambda: stage("predict", *options), LIMIT_S, MEMORY)

    def command(self, path: Path) -> Called:
        """The same from the command line."""
        arguments = [sys.executable, ROOT / "src" / "predict.py", "--model", path, self.song]
        environment = self.workshop.environment | {"PYTHONPATH": str(self.folder)}
        done = Running(arguments, environment, self.folder).wait(2 * LIMIT_S)
        return Called(
            error=None if done.code == 0 else done.last_line,
            traceback=done.err if done.traceback else None,
            out=done.out,
            err=done.err,
            hang=done.hang,
        )


def run(workshop: Workshop, quick: bool) -> Tally:
    """Try each case in each of its formats, and a few from the command line."""
    tally = Tally("models")
    workshop.build(["onnx"])
    bench = Bench(workshop)
    good = {suffix: bench.predict(bench.write(suffix, bench.about(suffix))) for suffix in FORMATS}
    for suffix, called in good.items():
        if called.error or called.traceback or called.hang:
            raise RuntimeError(f"{suffix}: refused as it is: {called}")
    for case in cases(bench):
        for suffix in case.formats:
            about = bench.about(suffix)
            case.spoil(about)
            tally.add(_tried(bench, case.group, f"{case.name} in {suffix}", good[suffix], about))
    for name, path in files(bench):
        called = bench.predict(path)
        tally.add(judge(bench, "files", name, called, None))
    for name, function in bombs(bench):
        tally.add(judge(bench, "yaml", name, isolated(function, LIMIT_S, MEMORY), None))
    if not quick:
        for suffix in FORMATS:
            for section in SECTIONS:
                about = bench.about(suffix)
                name = "subprocess.Popen"
                _place(about, section, {"name": name} | _calls(bench.mark)[name])
                called = bench.command(bench.write(suffix, about))
                how = f"{section}: subprocess.Popen in {suffix}"
                tally.add(judge(bench, "command line", how, called, good[suffix]))
    return tally


def judge(bench: Bench, group: str, how: str, called: Called, good: Called | None) -> Trial:
    """What came of a hostile file; `good`: what the file gave before it was spoilt."""
    executed = bench.mark.exists()
    bench.mark.unlink(missing_ok=True)
    if executed:
        result, note = verdict.SILENT, "EXECUTED"
    elif called.hang:
        result, note = verdict.HANG, ""
    elif called.traceback:
        result, note = verdict.TRACEBACK, called.traceback.strip().splitlines()[-1][:300]
    elif raw := [text for text in RAW if text in called.out + called.err + (called.error or "")]:
        result, note = verdict.SILENT, f"{raw[0]!r} reaches the terminal"
    elif called.error:
        result, note = verdict.SURVIVED, called.error[:300]
    elif group == "texts" or (good and called.out == good.out):
        result, note = verdict.SURVIVED, "harms nobody"
    else:
        result, note = verdict.SILENT, f"accepted: {called.out[:200]!r}"
    return Trial(group, result, how, note)


def _tried(bench, group, how, good, about):
    """Write a spoilt file and try it; one that cannot even be written harms nobody."""
    suffix = how.rpartition(" ")[2]
    try:
        path = bench.write(suffix, about)
    except (TypeError, ValueError, RecursionError, pickle.PicklingError) as error:
        return Trial(group, verdict.SURVIVED, how, f"cannot be written: {error}")
    return judge(bench, group, how, bench.predict(path), good)


def cases(bench: Bench) -> Iterator[Case]:
    """All of them."""
    yield from _classes(bench.mark)
    yield from _sizes()
    yield from _types()
    yield from _paths(bench)
    yield from _texts()


def _calls(mark: Path) -> dict[str, dict]:
    """{dotted name: section} of what would be called, with the keywords that it takes."""
    touch = f"touch '{mark}'"
    return {
        "subprocess.Popen": {"args": ["touch", str(mark)]},
        "os.system": {"command": touch},
        "os.popen": {"cmd": touch},
        "builtins.eval": {"source": f"open({str(mark)!r}, 'w')"},
        "builtins.exec": {"source": f"open({str(mark)!r}, 'w')"},
        "builtins.open": {"file": str(mark), "mode": "w"},
        "io.FileIO": {"file": str(mark), "mode": "w"},
        "logging.FileHandler": {"filename": str(mark)},
        "torch.hub.load": {"repo_or_dir": str(mark.parent), "model": "evil", "source": "local"},
        "pathlib.Path": {},
        "shutil.rmtree": {"path": str(mark)},
        "evil.Evil": {},
        "evil": {},
        "evil.": {},
        ".evil": {},
        "__main__.main": {},
        "torch.nn.Identity": {},
    }


def _classes(mark):
    for name, keywords in _calls(mark).items():
        for section in SECTIONS:
            value = {"name": name} | keywords

            def spoil(about, section=section, value=value):
                _place(about, section, value)

            yield Case("classes", f"{section}: {name}", spoil)


def _place(about, section, value):
    """Put a section into what a model says of itself, wherever sections are."""
    if section == "feature":
        about["feature"] = value
        return
    spec = about["spec"]
    if section == "backbone":
        options = {key: item for key, item in value.items() if key != "name"}
        spec["backbone"] = spec["backbone"] | {"name": value["name"], "options": options}
    elif section == "method":
        about["method"] = value
    else:
        spec[section] = value
    if isinstance(about.get("config"), dict):
        about["config"][section] = value


def _sizes():
    for key, value in {
        "embed_dim": 10**9,
        "depth": 10**7,
        "num_heads": 10**6,
        "frames": 2**40,
        "mels": 10**8,
        "n_source": 2**40,
        "patch": 0,
        "stride": -1,
    }.items():
        yield Case("sizes", f"backbone {key} {value}", lambda a, k=key, v=value: _options(a, k, v))
    for key, value in {"frames": 10**12, "bins": -1}.items():
        yield Case("sizes", f"feature {key} {value}", lambda a, k=key, v=value: _feature(a, k, v))
    wide = {"name": "unet", "channels": 10**9}
    yield Case("sizes", "reprogrammer", lambda a: _place(a, "reprogrammer", wide))
    yield Case("sizes", "10^6 classes", lambda a: a.update(classes=[str(n) for n in range(10**6)]))
    yield Case("sizes", "a name of 10^7", lambda a: a["feature"].update(name="a" * 10**7))
    yield Case("sizes", "no class", lambda a: a.update(classes=[]))
    yield Case("sizes", "deep lists", lambda a: a.update(threshold=_deep(900)))


def _options(about, key, value):
    about["spec"]["backbone"]["options"][key] = value


def _feature(about, key, value):
    about["feature"][key] = value


def _deep(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def _types():
    values = {"None": None, "5": 5, "text": "text", "list": [1], "{}": {}, "True": True}
    for place in ("classes", "threshold", "feature", "spec", "backbone_sha256", "feature_spec"):
        for name, value in values.items():
            yield Case("types", f"{place}: {name}", lambda a, p=place, v=value: a.update({p: v}))
        yield Case("types", f"{place}: missing", lambda a, p=place: a.pop(p, None))
    yield Case("types", "build: another key", lambda a: a["spec"].update(more=1))
    for part in ("norm", "reprogrammer", "backbone", "head"):
        for name, value in values.items():

            def spoil(about, part=part, value=value):
                about["spec"][part] = value

            yield Case("types", f"build {part}: {name}", spoil)
    for section in SECTIONS[:4]:
        for name, value in values.items():

            def spoil(about, section=section, value=value):
                _place(about, section, {"name": value})

            yield Case("types", f"{section} name: {name}", spoil)
    for value in (float("nan"), -1, 2, "0.5"):
        yield Case("types", f"threshold {value}", lambda a, v=value: a.update(threshold=v))
    yield Case("types", "classes twice", lambda a: a.update(classes=["bass"] * len(a["classes"])))
    yield Case("types", "fewer classes", lambda a: a.update(classes=a["classes"][:-1]))


def _paths(bench):
    """Files that no model may have opened: other people's, and devices and pipes without an end."""
    pipe = bench.folder / "pipe"
    os.mkfifo(pipe)
    above = "../" * 12
    for name in (
        f"{above}etc/passwd",
        "/etc/shadow",
        "/dev/zero",
        "/dev/stdin",
        str(pipe),
        f"{above}{pipe}",
        "",
        ".",
        "\0",
        "a" * 5000,
        "http://localhost:9/x.safetensors",
    ):

        def spoil(about, name=name):
            backbone = about["spec"]["backbone"]
            backbone["file"] = name
            backbone["source"] = "../" * 8 + "etc/passwd"

        yield Case("paths", f"backbone file {name[:40]!r}", spoil, (".pt", ".safetensors"))


def _texts():
    """Names of classes that would do something to a terminal."""
    for text in RAW:
        yield Case("texts", f"classes {text!r}", lambda a, t=text: _rename(a, t))


def _rename(about, text):
    about["classes"] = [f"{text}{number}" for number in range(len(about["classes"]))]


def files(bench: Bench) -> Iterator[tuple[str, Path]]:
    """(name, path) of files that are no models, or bad ones below the level of what they say."""
    folder, mark = bench.folder, bench.mark

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch '{mark}'",)

    bare = folder / "bare.pt"
    bare.write_bytes(pickle.dumps(Evil()))
    yield "pickle", bare
    for name, value in {
        "torch.save": Evil(),
        "in about": bench.state | {"about": Evil()},
        "in learned": bench.state | {"learned": {"head.linear.weight": Evil()}},
        "old format": Evil(),
    }.items():
        path = folder / f"{name}.pt"
        torch.save(value, path, _use_new_zipfile_serialization=name != "old format")
        yield f"{name}, pickle", path
    script = folder / "script.pt"
    torch.jit.script(torch.nn.Identity()).save(script)
    yield "TorchScript", script
    deep = folder / "deep.pt"
    deep.write_bytes(b"\x80\x02" + b"]" * DEPTH + b"a" * (DEPTH - 1) + b".")
    yield "deep pickle", deep
    for name, data in _safetensors(bench):
        path = folder / "file.safetensors"
        path.write_bytes(data)
        yield f"safetensors, {name}", path
    nested = folder / "nested.onnx"
    _write_graph(nested, bench.graph, bench.about(".onnx"), {"classes": "[" * DEPTH})
    yield "onnx, deep JSON", nested
    outside = folder / "outside.onnx"
    _with_outside_data(outside, bench.graph)
    yield "onnx, data outside", outside
    for suffix in FORMATS:
        empty = folder / f"empty{suffix}"
        empty.write_bytes(b"")
        yield f"empty {suffix}", empty
        directory = folder / f"folder{suffix}"
        directory.mkdir()
        yield f"a folder called {suffix}", directory
        pipe = folder / f"pipe{suffix}"
        os.mkfifo(pipe)
        yield f"a pipe called {suffix}", pipe
        zero = folder / f"zero{suffix}"
        zero.symlink_to("/dev/zero")
        yield f"a link to /dev/zero called {suffix}", zero


def _safetensors(bench):
    """(name, bytes) of files whose header is wrong."""
    header = {"__metadata__": {"ast_repr": "[" * DEPTH, "sha256": ""}}
    header["__metadata__"]["sha256"] = safetensors.content_hash("[" * DEPTH, {})
    tensor = {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}
    overlap = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    yield "deep JSON", _with_header(json.dumps(header).encode())
    yield "length 2^60", struct.pack("<Q", 2**60) + b"{}"
    yield "huge tensor", _with_header(json.dumps({"a": tensor}).encode())
    yield "overlapping", _with_header(json.dumps({"a": overlap, "b": overlap}).encode()) + b"\0" * 4
    yield "deep header", _with_header(b"[" * DEPTH)


def _with_header(text):
    return struct.pack("<Q", len(text)) + text


def bombs(bench: Bench) -> Iterator[tuple[str, Callable[[], object]]]:
    """(name, call) of YAML that blows up when it is resolved, walked or printed."""
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    bomb = "\n".join(["a0: &a0 [x, x, x, x, x, x, x, x, x]", *levels]) + "\n"
    tree = "{" + ", ".join(["k: &k0 {x: 1}", *(_doubled(n) for n in range(1, 40))]) + "}"
    for name, text in {
        "lists": f"row: bomb\n{bomb}published: *a8\n",
        "in a section": f"{bomb}reprogrammer: {{name: unet, x: *a8}}\n",
        "sections": f"reprogrammer: {tree}\n",
        "brackets": "row: " + "[" * 20_000 + "\n",
        "itself": "row: &r [*r]\npublished: *r\n",
        "python": "row: !!python/object/apply:os.system ['touch EXECUTED']\n",
    }.items():
        confs = bench.folder / f"confs {name}"
        shutil.copytree(CONF_DIR, confs)
        (confs / "bomb.yaml").write_text(text, encoding="utf-8")
        options = bench.workshop.command("train")[2:]
        options[options.index("--conf-dir") + 1] = confs
        options[options.index("--conf") + 1] = "bomb"
        yield f"conf, {name}", lambda options=options: stage("train", *options, "--dry-run")
        studies = bench.folder / f"studies {name}"
        studies.mkdir()
        (studies / "studies.yaml").write_text(text, encoding="utf-8")
        report = bench.workshop.command("report")[2:]
        report[report.index("--conf-dir") + 1] = studies
        yield f"studies, {name}", lambda report=report: stage("report", *report)


def _doubled(n):
    return f"k{n}: &k{n} {{a: *k{n - 1}, b: *k{n - 1}}}"


def _write_module(path, mark):
    """A module that leaves a mark when it is imported, and another as PyTorch's hub wants it."""
    text = f"open({str(mark)!r}, 'w').close()\n\n\nclass Evil:\n    pass\n"
    path.write_text(text, encoding="utf-8")
    (mark.parent / "hubconf.py").write_text(text, encoding="utf-8")


def _write_graph(path, good, about, raw=None):
    """A copy of a graph that says `about` of itself, sealed; `raw`: metadata as they are."""
    import onnx

    model = onnx.load(good)
    del model.metadata_props[:]
    texts = {key: json.dumps(value) for key, value in about.items()} | (raw or {})
    onnx.helper.set_model_props(model, texts | {"sha256": graph.HASH_PLACEHOLDER})
    data = model.SerializeToString()
    path.write_bytes(
        data.replace(graph.HASH_PLACEHOLDER.encode(), identity.of_bytes(data).encode())
    )


def _with_outside_data(path, good):
    """A graph one of whose tensors is to be read from somebody else's file."""
    import onnx

    model = onnx.load(good)
    tensor = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../../../../../../../etc/passwd"
    for prop in model.metadata_props:
        if prop.key == "sha256":
            prop.value = graph.HASH_PLACEHOLDER
    data = model.SerializeToString()
    path.write_bytes(
        data.replace(graph.HASH_PLACEHOLDER.encode(), identity.of_bytes(data).encode())
    )
