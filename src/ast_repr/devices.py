"""Which device runs, what it can do, and how results describe it."""

import contextlib
import ctypes
import os
import platform
from pathlib import Path

import torch

from . import atomic

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of the C library's mallopt
GROUPS = {  # Linux' control groups, version 2 and 1: files with the limit and the use of memory, and what of it only caches files
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def choose(name="auto"):
    """torch.device for "auto" (the first GPU, else the CPU), "cpu", "cuda" or "cuda:N".

    Raises:
        ValueError: unknown, or not on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device {name!r}; expected auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {name!r}: this machine has {torch.cuda.device_count()} CUDA devices; pass --device cpu"
        )
    if device.type == "cpu":
        keep_freed_memory()
    return device


def keep_freed_memory():
    """Let the process keep what its tensors free, for the next ones, as PyTorch does on a GPU.

    Linux' C library gives the largest blocks back at once and gets them anew page by page; what that costs a training step, tests/bench/step.py says.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_MMAP_MAX, 0)


def memory_left(proc=Path("/proc"), groups=Path("/sys/fs/cgroup")):
    """Bytes of the machine's memory that this process may still take: what is free, what only caches files included, or what
    its container or job leaves it, if that is less. The arguments are where Linux says so."""
    fields = dict(line.split(":") for line in atomic.read_text(proc / "meminfo").splitlines())
    left = 1024 * int(fields["MemAvailable"].split()[0])
    for _, kind, path in (
        line.split(":", 2) for line in atomic.read_text(proc / "self" / "cgroup").splitlines()
    ):
        group = groups / kind / path.lstrip("/")
        for folder in (group, *group.parents) if kind in GROUPS else ():
            with contextlib.suppress(
                OSError, ValueError
            ):  # no such group here, or it sets no limit
                limit, used, cached = GROUPS[kind]
                stat = dict(
                    line.split() for line in atomic.read_text(folder / "memory.stat").splitlines()
                )
                left = min(
                    left,
                    int(atomic.read_text(folder / limit))
                    - int(atomic.read_text(folder / used))
                    + int(stat[cached]),
                )
    return max(left, 0)


def device_groups(name, size, concurrent_runs, runs):
    """The devices of the processes of each run that goes on at the same time: a list of lists of `size` torch.devices.

    Args:
        name: as for `choose`; "cuda" and a GPU found by "auto" stand for all GPUs there are.
        size: processes of a run, on a device each; on the CPU they share its threads.
        concurrent_runs: runs at the same time; None: as many as there are GPUs for, one on the CPU. Never more than `runs`.

    Raises:
        ValueError: there are fewer GPUs than that takes.
    """
    first, runs = choose(name), max(runs, 1)
    if first.type == "cpu":
        return [[first] * size] * min(concurrent_runs or 1, runs)
    there = (
        [torch.device("cuda", n) for n in range(torch.cuda.device_count())]
        if first.index is None
        else [first]
    )
    count = min(concurrent_runs or max(1, len(there) // size), runs)
    if size * count > len(there):
        if first.index is not None:
            raise ValueError(
                f"device {name!r} is a single GPU, for {count} runs at once on {size} each; pass --device cuda, which takes them all"
            )
        raise ValueError(
            f"found {len(there)} CUDA devices for {count} runs at once on {size} each; pass a smaller --ngpu or --jobs"
        )
    return [there[n * size : (n + 1) * size] for n in range(count)]


def has_bf16(device):
    """Whether bfloat16 matrix products run in hardware there."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu.get_capabilities().get("avx512_bf16"))


def describe(device):
    """Plain values for results.json."""
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{torch.get_num_threads()} CPU threads"
    )
    return {
        "device": name,
        "cores": os.cpu_count(),
        "platform": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }
