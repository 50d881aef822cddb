"""Which device runs, what it can do, and how results describe it."""

import os
import platform

import torch


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
        raise ValueError(f"device {name!r}: this machine has {torch.cuda.device_count()} CUDA devices; pass --device cpu")
    return device


def has_bf16(device):
    """Whether bfloat16 matrix products run in hardware there."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu.get_capabilities().get("avx512_bf16"))


def describe(device):
    """Plain values for results.json."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    return {
        "device": name, "cores": os.cpu_count(), "platform": platform.platform(terse=True),
        "python": platform.python_version(), "torch": str(torch.__version__),
    }  # fmt: skip
