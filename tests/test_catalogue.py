"""The catalogue of backbones: what is shipped, and downloads from the hub."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest

from ast_repr import pretrained
from ast_repr.corpora.remote import Remote

CONTENT = b"weights" * 50


@pytest.fixture
def entry(tmp_path, monkeypatch):
    """A backbone on the hub."""
    fields = dict.fromkeys(("labels", "licence"))
    fields |= {
        "file": "downloads/big.safetensors",
        "hub": {"repo": "me/big", "revision": "abc", "file": "model.safetensors"},
        "bytes": len(CONTENT),
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
    }
    (tmp_path / "index.yaml").write_text(json.dumps({"big": fields}))
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    return pretrained.find("big")


@pytest.fixture
def hub(monkeypatch):
    """Stands in for huggingface_hub.hf_hub_download: what it is asked for, and what it does."""
    hub = {"asked": [], "content": CONTENT}

    def download(repo, file, revision, local_dir):
        hub["asked"].append((repo, file, revision))
        if "error" in hub:
            raise hub["error"]
        path = Path(local_dir) / file
        path.parent.mkdir(parents=True)
        path.write_bytes(hub["content"])
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return hub


def test_weights_are_downloaded_once_and_nothing_else_is_left(entry, hub):
    entry.fetch()
    entry.fetch()
    assert hub["asked"] == [("me/big", "model.safetensors", "abc")]
    assert entry.path.read_bytes() == CONTENT and entry.is_available
    names = {path.name for path in entry.path.parent.iterdir()}
    assert names - {"big.lock"} == {"big.safetensors"}


def test_a_file_that_is_there_is_not_downloaded_but_verified(entry, hub):
    entry.path.parent.mkdir(exist_ok=True)
    entry.path.write_bytes(CONTENT)
    entry.fetch()
    entry.path.write_bytes(CONTENT[:-1])
    with pytest.raises(ValueError, match=r"big\.safetensors: .*sha256 .*me/big/resolve/abc"):
        entry.fetch()
    assert not hub["asked"]


def test_other_content_than_expected_is_refused(entry, hub):
    hub["content"] = b"something else"
    with pytest.raises(ValueError, match=r"big\.safetensors: .*sha256"):
        entry.fetch()


def test_a_failed_download_says_what_to_do_by_hand(entry, hub):
    hub["error"] = KeyError("of the hub's own kinds")
    with pytest.raises(RuntimeError, match=r"me/big.*cannot be downloaded.*big\.safetensors"):
        entry.fetch()
    assert not entry.path.exists()


def test_a_file_elsewhere_is_downloaded_by_its_address_size_and_sha256(entry, hub, monkeypatch):
    remotes = []

    def download(remote, path):
        remotes.append(remote)
        path.write_bytes(CONTENT)

    monkeypatch.setattr(pretrained, "download", download)
    elsewhere = replace(entry, hub=None, download="https://example.org/big.pt")
    elsewhere.fetch()
    elsewhere.fetch()
    assert remotes == [Remote(elsewhere.url, entry.bytes, sha256=entry.sha256)]
    assert elsewhere.url == "https://example.org/big.pt" and not hub["asked"]


def test_statistics_are_those_of_the_catalogue_unless_the_file_has_them():
    assert pretrained.statistics("ast_audioset") == {"mean": -4.2677393, "std": 4.5689974}
    assert pretrained.statistics("ast_tiny_synth") == {}
    assert pretrained.statistics("my_ast") == {}


def test_the_shipped_files_are_those_of_the_catalogue():
    shipped = [entry for entry in map(pretrained.find, pretrained.names()) if entry.url is None]
    assert shipped
    for entry in shipped:
        entry.fetch()
    assert (pretrained.shipped_model() / "model.safetensors").is_file()
