"""Catalogue of the pretrained backbones (pretrained_models/index.yaml), and the shipped model.

It does not import torch, so that fetching starts at once.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from . import atomic, identity, registry, yaml_file
from .corpora.remote import Remote, download, only_user_of


def _folder():
    """Find pretrained_models: inside the package in a wheel, at the top level in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "pretrained_models"
    return inside if inside.is_dir() else package.parents[1] / "pretrained_models"


FOLDER = _folder()
MODELS = {  # folders of the trained models that are shipped, and the backbone of each
    "instruments_ast": "ast_tiny_synth",
    "instruments_musicnn": "musicnn_msd",
}
DEFAULT_MODEL = "instruments_ast"
PANNS = "panns_cnn14"  # the catalogue's name of the network that multi_stft takes its branches from


@dataclass(frozen=True)
class Entry:
    """One backbone of index.yaml, whose header explains the fields."""

    name: str
    file: str
    hub: dict | None
    bytes: int | None
    sha256: str | None
    labels: str | None
    licence: str
    mean: float | None = None
    std: float | None = None
    network: str = "ast"
    package: dict | None = None
    download: str | None = None

    @property
    def path(self) -> Path:
        """The file of its weights, which may have to be fetched."""
        return FOLDER / self.file

    def source_classes(self) -> list[str] | None:
        """Names of the source classes, in order; None if they are in the file's header."""
        return self.labels and atomic.read_text(FOLDER / self.labels).splitlines()

    @property
    def url(self) -> str | None:
        """Address of the file, or of its package; None if it is shipped."""
        if self.download is not None:
            return self.download
        if self.package is not None:
            return "https://pypi.org/project/{name}/{version}/".format(**self.package)
        if self.hub is None:
            return None
        return "https://huggingface.co/{repo}/resolve/{revision}/{file}".format(**self.hub)

    @property
    def is_available(self) -> bool:
        """Whether the file exists with the right size; `verify` checks its content."""
        return self.path.is_file() and self.bytes in (None, self.path.stat().st_size)

    def fetch(self) -> None:
        """Download the file, or make it from its package, unless it exists, and verify it.

        Raises:
            RuntimeError: it cannot be downloaded.
            ValueError, OSError: as `verify`.
        """
        if self.url is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path.with_suffix(".lock")):  # others wait, and find the file
                if not self.path.is_file():
                    if self.download is not None:
                        remote = Remote(self.download, self.bytes, sha256=self.sha256)
                        download(remote, self.path)
                    elif self.package is not None:
                        self._convert()
                    else:
                        self._download_from_hub()
        self.verify()

    def _download_from_hub(self):
        # Slow to import, and needed here only.
        import huggingface_hub

        folder = self.path.with_suffix("")  # of the hub's library, which resumes there
        try:
            file = huggingface_hub.hf_hub_download(
                self.hub["repo"],
                self.hub["file"],
                revision=self.hub["revision"],
                local_dir=folder,
            )
        except Exception as error:  # of the hub, of its HTTP library, of the file system
            raise RuntimeError(
                f"{self.url}: cannot be downloaded ({error}); try again, "
                f"or put the file at {self.path}"
            ) from error
        os.replace(file, self.path)
        shutil.rmtree(folder)

    def _convert(self):
        # Imports torch, and is needed here only.
        from .backbones import musicnn_weights

        with tempfile.TemporaryDirectory(dir=self.path.parent) as folder:
            wheel = self._download_wheel(Path(folder))
            musicnn_weights.convert_wheel(wheel, self.name, self.path)

    def _download_wheel(self, folder):
        """Download the package's wheel into `folder`, verified by pip; nothing is installed."""
        requirements = folder / "requirements.txt"
        atomic.write_text(
            requirements, "{name}=={version} --hash=sha256:{sha256}\n".format(**self.package)
        )
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
        pip += ["--no-deps", "--require-hashes", "--only-binary", ":all:"]
        pip += ["--dest", folder, "--requirement", requirements]
        run = subprocess.run(pip, capture_output=True, encoding="utf-8", errors="replace")
        if run.returncode:
            reason = (run.stderr.strip().splitlines() or ["pip failed"])[-1]
            raise RuntimeError(
                f"{self.url}: cannot be downloaded ({reason}); try again with a connection, "
                f"or copy {self.path} from a machine that has it"
            )
        (wheel,) = folder.glob("*.whl")
        return wheel

    def verify(self) -> None:
        """Compare the file with the known sha256; 346 MB take a third of a second.

        Raises:
            ValueError: it is missing, another file, or damaged.
            OSError: it cannot be read.
        """
        path = os.path.relpath(self.path)
        remedy = f"it is part of the repository: git checkout {path}"
        if self.url is not None:
            remedy = f"delete it and run the stage `fetch`, which downloads {self.url}"
        if not self.path.is_file():
            raise ValueError(f"{path}: missing; {remedy}")
        sha256 = identity.of_file(self.path)
        if not sha256.startswith(self.sha256 or ""):
            raise ValueError(f"{path}: found sha256 {sha256}, expected {self.sha256}; {remedy}")


def verify_weights(name: str, path: str | Path) -> None:
    """Verify a file of weights, if it is the catalogue's for the backbone `name`.

    Raises: as `Entry.verify`.
    """
    entry = get(name)
    if entry is not None and Path(path).resolve() == entry.path.resolve():
        entry.verify()


def add_file(file: Path) -> None:
    """Copy a file of weights to its place in the catalogue, which is found by its sha256.

    Raises:
        ValueError: it is not in the catalogue.
        OSError: it cannot be read, or the copy not written.
    """
    sha256 = identity.of_file(file)
    for entry in map(find, names()):
        if entry.sha256 is not None and sha256.startswith(entry.sha256):
            with atomic.replacing(entry.path) as partial:
                shutil.copyfile(file, partial)
            return
    raise ValueError(
        f"{file}: found sha256 {sha256}, expected that of a file in {FOLDER / 'index.yaml'}: "
        f"{', '.join(names())}"
    )


def panns_path() -> Path:
    """File of the part of PANNs' CNN14 that the backbone multi_stft starts from."""
    return FOLDER / "downloads" / "panns_cnn14_branch.safetensors"


def fetch_panns(file: Path | None = None) -> None:
    """Make `panns_path` from PANNs' file, which is downloaded unless it is given.

    Raises:
        RemoteError: it cannot be downloaded.
        ValueError: `file` is another one.
        OSError: a file cannot be read or written.
    """
    # Imports torch, and is needed here only.
    from .backbones import multi_stft

    entry = find(PANNS)
    with only_user_of(panns_path().parent):
        if file is not None:
            sha256 = identity.of_file(file)
            if sha256 != entry.sha256:
                raise ValueError(
                    f"{file}: found sha256 {sha256}, expected {entry.sha256}; get {entry.url}"
                )
            multi_stft.convert_cnn14(file, panns_path())
        elif not panns_path().is_file():
            entry.fetch()
            multi_stft.convert_cnn14(entry.path, panns_path())


def starts_from_panns(network: str, weights: str) -> bool:
    """Whether a backbone section's network and weights are those of `panns_path`."""
    return network == "multi_stft" and weights == "pretrained"


def shipped_model(name: str = DEFAULT_MODEL) -> Path:
    """Folder of a trained model that is shipped, as `ast-repr export` wrote it."""
    return FOLDER / name


def names() -> list[str]:
    """List the names of the backbones, in the order of the file."""
    return list(_read("index.yaml"))


def get(name: str | None) -> Entry | None:
    """Return the Entry of a backbone; None if it is not in the catalogue."""
    index = _read("index.yaml")
    return Entry(name, **index[name]) if name in index else None


def find(name: str) -> Entry:
    """Return the Entry of a backbone.

    Raises:
        ValueError: the name is unknown; the message lists the known ones.
    """
    entry = get(name)
    if entry is None:
        raise ValueError(registry.unknown("backbone", name, names()))
    return entry


def network(name: str | None) -> str:
    """Return the architecture of a backbone; one that is not in the catalogue is an AST."""
    entry = get(name)
    return "ast" if entry is None else entry.network


def statistics(name: str) -> dict[str, float]:
    """Return the mean and std of the log-mels that a backbone was trained on.

    Empty if they are in its file, or if it is not in the catalogue.
    """
    entry = get(name)
    if entry is None or entry.mean is None:
        return {}
    return {"mean": entry.mean, "std": entry.std}


def zero_shot(name: str) -> dict:
    """Return the section of instruments.yaml about a backbone.

    Returns:
        {"activation": of its source classes, "names": {instrument: [source class, ...]}}.

    Raises:
        ValueError: it has none; the message lists the backbones that have one.
    """
    table = _read("instruments.yaml")
    if name not in table:
        raise ValueError(
            f"zero-shot: {registry.unknown('backbone of instruments.yaml', name, table)}"
        )
    same = table[name].get("same")
    return table[name] if same is None else table[same]


def activation(name: str) -> str:
    """Return the activation of a backbone's source classes: "sigmoid" if it is not known."""
    if name not in _read("instruments.yaml"):
        return "sigmoid"
    return zero_shot(name)["activation"]


def _read(file):
    return yaml_file.read(FOLDER / file)
