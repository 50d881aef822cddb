"""Weight files are read strictly and safely; position embeddings are fitted as AST's authors do."""

import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ast_repr.backbones import weights
from ast_repr.backbones.weights import WeightsError


@pytest.fixture
def file(tmp_path, tiny_ast):
    """A file of this project with the tiny AST's weights."""
    weights.save(tiny_ast(), tmp_path / "ast.safetensors")
    return tmp_path / "ast.safetensors"


def changed(file, change):
    """The file's tensors after `change`, written back under this project's metadata."""
    metadata, tensors = weights.read(file)
    change(tensors)
    save_file(tensors, file, metadata=metadata)
    return file


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: t.pop("blocks.1.mlp.fc1.weight"), r"missing: blocks\.1\.mlp\.fc1\.weight"),
        (
            lambda t: t.update({"blocks.9.norm1.bias": torch.zeros(32)}),
            r"unexpected: blocks\.9\.norm1\.bias",
        ),
        (
            lambda t: t.update({"source_head.1.bias": torch.zeros(11)}),
            r"source_head\.1\.bias \(11,\), expected \(10,\)",
        ),
        (
            lambda t: t.update({"pos_embed": torch.zeros(1, 2 + 7, 32)}),
            r"pos_embed \(1, 9, 32\), expected \(1, 10, 32\)",
        ),
    ],
)
def test_a_key_that_is_missing_unexpected_or_misshapen_is_named(change, named, file, tiny_ast):
    backbone = tiny_ast()
    before = weights.fingerprint(backbone)
    with pytest.raises(WeightsError, match=named):
        weights.load(backbone, changed(file, change))
    assert weights.fingerprint(backbone) == before


@pytest.mark.parametrize("offset", [0, 4, 8, 200, 0.1, 0.5, 0.9, -1])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_truncated_file_is_refused_whole(suffix, offset, tmp_path, file, tiny_ast, spread):
    path = tmp_path / f"short{suffix}"
    if suffix == ".pth":
        torch.save(dict(tiny_ast().state_dict()), path)
    else:
        path.write_bytes(file.read_bytes())
    data = path.read_bytes()
    path.write_bytes(data[: round(offset * len(data)) if 0 < offset < 1 else offset])
    backbone = spread(tiny_ast(), seed=9)
    before = weights.fingerprint(backbone)
    for read in (lambda: weights.load(backbone, path), lambda: weights.read_header(path)):
        with pytest.raises(WeightsError, match=path.name):
            read()
    assert weights.fingerprint(backbone) == before


class Malice:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize(
    "write",
    [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))],
    ids=["torch", "pickle"],
)
@pytest.mark.parametrize("suffix", [".pth", ".bin", ".safetensors"])
def test_code_in_a_weight_file_does_not_run(write, suffix, tmp_path, tiny_ast):
    path, trace = tmp_path / f"evil{suffix}", tmp_path / "was_here"
    write({"module.v.cls_token": Malice(trace)}, path)
    for read in (weights.read_header, lambda p: weights.load(tiny_ast(), p)):
        with pytest.raises(WeightsError, match=path.name):
            read(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    "content", [b"", b"not weights", bytes(1000), b"RIFF\x24\0\0\0WAVEfmt ", b"accordion\nbanjo\n"]
)
@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_a_file_that_is_no_weights_is_refused(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=name):
        weights.read_header(tmp_path / name)
    with pytest.raises(WeightsError, match="no such"):
        weights.read_header(tmp_path / "absent.pth")


@pytest.mark.parametrize("name", ["audioset.pth", "tiny.safetensors"])
def test_a_git_lfs_pointer_is_called_one(name, tmp_path, tiny_ast):
    (tmp_path / name).write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 346404948\n"
    )
    for read in (weights.read_header, lambda path: weights.load(tiny_ast(), path)):
        with pytest.raises(WeightsError, match=f"{name}: a Git LFS pointer.*git lfs pull"):
            read(tmp_path / name)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused_by_its_name(value, file, tiny_ast):
    backbone = tiny_ast()
    before = weights.fingerprint(backbone)
    changed(file, lambda tensors: tensors["blocks.1.mlp.fc1.bias"].__setitem__(3, value))
    with pytest.raises(WeightsError, match=r"ast.safetensors: NaN.*blocks\.1\.mlp\.fc1\.bias"):
        weights.load(backbone, file)
    assert weights.fingerprint(backbone) == before


def positions(rows, columns, width=6, seed=0):
    return torch.randn(1, 2 + rows * columns, width, generator=torch.Generator().manual_seed(seed))


def test_positions_that_fit_stay_as_they_are():
    assert torch.equal(weights.fit_positions(positions(3, 8), (3, 8)), positions(3, 8))


@pytest.mark.parametrize(("columns", "first"), [(4, 2), (5, 1), (1, 3)])
def test_fewer_positions_are_the_middle_ones(columns, first):
    fitted, image = (
        weights.fit_positions(positions(3, 8), (3, columns)),
        positions(3, 8)[0, 2:].reshape(3, 8, 6),
    )
    assert torch.equal(fitted[:, :2], positions(3, 8)[:, :2])
    assert torch.equal(fitted[0, 2:].reshape(3, columns, 6), image[:, first : first + columns])


@pytest.mark.parametrize("columns", [9, 13, 24])
def test_more_positions_are_interpolated_linearly_in_time(columns):
    given = positions(3, 8).double()
    fitted, image = (
        weights.fit_positions(given, (3, columns)),
        given[0, 2:].reshape(3, 8, 6).numpy(),
    )
    place = np.clip(
        (np.arange(columns) + 0.5) * 8 / columns - 0.5, 0, 7
    )  # centres of pixels, edges held
    left = np.floor(place).astype(int)
    share = (place - left)[None, :, None]
    expected = image[:, left] * (1 - share) + image[:, np.minimum(left + 1, 7)] * share
    assert torch.equal(fitted[:, :2], given[:, :2])
    np.testing.assert_allclose(fitted[0, 2:].reshape(3, columns, 6).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("stride", [10, 16, 20])
def test_positions_of_another_stride_are_interpolated_in_time_and_frequency(
    stride, tmp_path, tiny_ast
):
    """Oracle: positions that are linear in both axes stay so, at the centres of the new grid."""
    given = tiny_ast(mels=128, frames=1024, stride=10)
    rows, columns = given.grid
    assert (rows, columns) == (12, 101)
    image = torch.arange(rows)[:, None] + 0.01 * torch.arange(columns)
    with torch.no_grad():
        given.pos_embed[0, 2:] = image.flatten()[:, None]
    weights.save(given, tmp_path / "x.safetensors")
    network = weights.load(
        tiny_ast(mels=128, frames=1024, stride=stride), tmp_path / "x.safetensors"
    )
    new_rows, new_columns = network.grid
    row = (torch.arange(new_rows) + 0.5) * rows / new_rows - 0.5
    column = (torch.arange(new_columns) + 0.5) * columns / new_columns - 0.5
    expected = row[:, None] + 0.01 * column
    fitted = network.pos_embed.detach()
    assert torch.equal(fitted[:, :2], given.pos_embed[:, :2])
    for channel in fitted[0, 2:].T:
        torch.testing.assert_close(channel.reshape(network.grid), expected)


@pytest.mark.parametrize("stride", [0, "a", -16, None])
def test_a_header_with_other_dims_is_refused_in_one_line(stride, tmp_path, tiny_ast):
    network = tiny_ast()
    network.dims["stride"] = stride
    weights.save(network, tmp_path / "x.safetensors")
    with pytest.raises(weights.WeightsError, match="x.safetensors: "):
        weights.load(tiny_ast(mels=48), tmp_path / "x.safetensors")
    network.dims = None
    weights.save(network, tmp_path / "x.safetensors")
    for read in (weights.read_header, lambda path: weights.load(network, path)):
        with pytest.raises(weights.WeightsError, match="no readable `ast_repr` metadata"):
            read(tmp_path / "x.safetensors")
