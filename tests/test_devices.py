"""Devices: what may be asked for, and the same numbers on a GPU as on the CPU."""

import pytest
import torch

from ast_repr import backbones, classifier, devices, heads, reprogrammers


def test_the_cpu_can_always_be_had():
    assert devices.choose("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["tpu0", "cuda:99"])
def test_a_device_that_is_not_there_is_refused_with_its_name(name):
    with pytest.raises(ValueError, match=name):
        devices.choose(name)


def test_one_gpu_by_its_number_is_not_several(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert devices.device_groups("cuda", 2, None, 5) == [
        [torch.device("cuda", n) for n in pair] for pair in ((0, 1), (2, 3))
    ]
    assert devices.device_groups("cuda:1", 1, None, 5) == [[torch.device("cuda", 1)]]
    assert devices.device_groups("cuda:1", 1, 2, 5) == [[torch.device("cuda", 1)]] * 2
    shared = devices.device_groups("cuda", 1, 5, 9)
    assert [device.index for (device,) in shared] == [0, 1, 2, 3, 0]
    with pytest.raises(
        ValueError,
        match="'cuda:1' is a single GPU, for 1 runs at once on 2 each; pass --device cuda",
    ):
        devices.device_groups("cuda:1", 2, None, 5)
    with pytest.raises(
        ValueError, match="found 4 CUDA devices for 3 runs at once on 2 each; pass a smaller"
    ):
        devices.device_groups("cuda", 2, 3, 5)


@pytest.mark.parametrize(("jobs", "runs", "expected"), [(None, 5, 1), (3, 5, 3), (3, 2, 2)])
def test_runs_side_by_side_on_the_cpu_are_as_many_as_asked_for(jobs, runs, expected):
    cpu = torch.device("cpu")
    assert devices.device_groups("cpu", 2, jobs, runs) == [[cpu, cpu]] * expected


GB = 2**30


@pytest.mark.parametrize(
    ("group", "files", "left"),
    [
        (
            "0::/job/task",
            {
                "job/memory.max": 8 * GB,
                "job/memory.current": 5 * GB,
                "job/memory.stat": f"anon 1\ninactive_file {GB}",
            },
            4,
        ),  # Slurm
        (
            "0::/",
            {"memory.max": 3 * GB, "memory.current": GB, "memory.stat": "inactive_file 0"},
            2,
        ),  # a container
        (
            "0::/",
            {"memory.max": "max", "memory.current": GB, "memory.stat": "inactive_file 0"},
            100,
        ),
        (
            "4:memory:/not/seen/here",
            {
                "memory/memory.limit_in_bytes": 6 * GB,
                "memory/memory.usage_in_bytes": GB,
                "memory/memory.stat": "total_inactive_file 0",
            },
            5,
        ),
        ("0::/", {"memory.max": GB, "memory.current": 2 * GB, "memory.stat": "inactive_file 0"}, 0),
    ],
)
def test_memory_is_what_the_machine_and_the_job_leave(group, files, left, tmp_path):
    files = {f"groups/{name}": value for name, value in files.items()}
    files |= {
        "proc/meminfo": f"MemTotal: 1 kB\nMemAvailable: {100 * GB // 1024} kB",
        "proc/self/cgroup": f"9:cpu:/\n{group}",
    }
    for name, value in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{value}\n")
    assert devices.memory_left(tmp_path / "proc", tmp_path / "groups") == left * GB


def test_a_description_is_plain_values():
    assert {type(value) for value in devices.describe(torch.device("cpu")).values()} <= {str, int}


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device, and this machine has none"
)
def test_logits_and_gradients_on_a_gpu_are_those_of_the_cpu():
    torch.manual_seed(0)
    backbone = backbones.build(
        "ast", embed_dim=32, depth=2, num_heads=2, frames=64, mels=32, n_source=3
    )
    model = classifier.Reprogrammed(
        reprogrammers.build("unet", 64, 32), backbone, heads.build("embedding", 4, embed_dim=32)
    ).eval()
    x, found = torch.randn(3, 1, 64, 32), []
    for place in ("cpu", "cuda"):
        model.to(place).zero_grad()
        with torch.backends.cudnn.flags(allow_tf32=False):  # convolutions in full float32
            logits = model(x.to(place))
            logits.sum().backward()
        gradients = [parameter.grad.clone() for parameter in model.trainable_parameters()]
        found.append([logits, *gradients])
    for on_cpu, on_gpu in zip(*found, strict=True):
        torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=1e-3, atol=1e-4)
