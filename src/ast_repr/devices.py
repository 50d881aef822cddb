"""Choice, memory, capabilities and description of devices."""

import contextlib
import os
import platform
from pathlib import Path

import torch

from . import atomic, processes

# Linux' control groups, version 2 and 1: files with the limit and the use of memory, and the key of
# memory.stat that counts caches of files.
CONTROL_GROUPS = {
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def choose(name: str = "auto") -> torch.device:
    """Return the device "auto" (the first GPU, else the CPU), "cpu", "cuda" or "cuda:N".

    Raises:
        ValueError: unknown, or not on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device {name!r}; expected auto, cpu, cuda or cuda:N") from error
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ValueError(
            f"device {name!r}: this machine has {count} CUDA devices; pass --device cpu"
        )
    if device.type == "cpu":
        processes.keep_freed_memory()
    return device


def memory_left(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the bytes of memory that this process may still take.

    Caches of files count as free; limits of the container or job are respected.

    Args:
        proc, groups: mount points of /proc and of the control groups.
    """
    fields = dict(line.split(":") for line in atomic.read_text(proc / "meminfo").splitlines())
    left = 1024 * int(fields["MemAvailable"].split()[0])
    for line in atomic.read_text(proc / "self" / "cgroup").splitlines():
        _, kind, path = line.split(":", 2)
        if kind not in CONTROL_GROUPS:
            continue
        group = groups / kind / path.lstrip("/")
        for folder in (group, *group.parents):
            with contextlib.suppress(OSError, ValueError):  # no such group, or it has no limit
                left = min(left, _left_in_group(folder, *CONTROL_GROUPS[kind]))
    return max(left, 0)


def _left_in_group(folder, limit, used, cached):
    """Bytes that a control group leaves."""
    stat = dict(line.split() for line in atomic.read_text(folder / "memory.stat").splitlines())
    left = int(atomic.read_text(folder / limit)) - int(atomic.read_text(folder / used))
    return left + int(stat[cached])


def device_groups(name: str, size: int, jobs: int | None, runs: int) -> list[list[torch.device]]:
    """Return the devices of each concurrent run: lists of `size`.

    Args:
        name: as for `choose`; "cuda", and "auto" with GPUs, stand for all GPUs of the machine.
        size: processes of a run, on a device each; on the CPU they share its threads.
        jobs: concurrent runs, at most `runs`; None: as many as the GPUs allow, one on the CPU.
            More jobs of one process than GPUs share these.

    Raises:
        ValueError: there are fewer GPUs than that takes.
    """
    first = choose(name)
    runs = max(runs, 1)
    if first.type == "cpu":
        return [[first] * size] * min(jobs or 1, runs)
    devices = [first]
    if first.index is None:
        devices = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    count = min(jobs or max(1, len(devices) // size), runs)
    if size == 1:
        return [[devices[index % len(devices)]] for index in range(count)]
    if size * count > len(devices):
        needed = f"{count} runs at once on {size} each"
        if first.index is not None:
            raise ValueError(
                f"device {name!r} is a single GPU, for {needed}; pass --device cuda, which takes "
                "them all"
            )
        raise ValueError(
            f"found {len(devices)} CUDA devices for {needed}; pass a smaller --ngpu or --jobs"
        )
    return [devices[index * size : (index + 1) * size] for index in range(count)]


def has_bf16(device: torch.device) -> bool:
    """Whether bfloat16 matrix products run in hardware there."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu.get_capabilities().get("avx512_bf16"))


def uses_bf16(device: torch.device, precision: str) -> bool:
    """Whether `precision`, "auto" or "float32", means bfloat16 there."""
    return precision == "auto" and has_bf16(device)


def describe(device: torch.device) -> dict[str, str | int]:
    """Describe a device in plain values for results.json."""
    name = f"{torch.get_num_threads()} CPU threads"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    return {
        "device": name,
        "cores": os.cpu_count(),
        "platform": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }
