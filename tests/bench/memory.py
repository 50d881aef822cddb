"""Memory of a training step: AST-base, U-Net in front

The largest memory that a process took while it made a step, less what it had before, in a process of its own for each line:
of the GPU what its allocator gave out, on a CPU the resident memory, with large blocks given back when they are freed. The model's
own 0.35 GB come on top. "-": a batch that would take more than four fifths of this machine's memory was not tried.
What a batch takes grows by the same amount with each clip, so the largest batch that a device of 24 or 80 GB holds is computed from the
two smaller ones, with a gigabyte put aside for the model, the CUDA context and what an allocator cannot use. Where the page says that it was
measured on a CPU, so are these: a GPU's kernels keep other intermediate results, so take them as an estimate there.
`--recompute` keeps only what enters each block and computes the rest again on the way back.
"""

import json
import os
import resource
import subprocess
import sys
from unittest import mock

import record
import step
import torch

from ast_repr import devices

PUT_ASIDE = 1e9  # bytes
DEVICES = (24, 80)  # GB
LARGEST = 64


def main(args):
    if args.one:
        return print(json.dumps(measure(args)))
    target = devices.choose(args.device)
    rows, batches = [], (1, 2) if args.quick else (4, 16)
    for precision in ("float32", "bfloat16") if devices.has_bf16(target) else ("float32",):
        for again in (False, True):
            found = {batch: in_a_process(args, precision, batch, again) for batch in batches}
            each = (found[batches[1]] - found[batches[0]]) / (batches[1] - batches[0])
            if not args.quick and found[16] + (LARGEST - 16) * each < 0.8 * room(target):
                found[LARGEST] = in_a_process(args, precision, LARGEST, again)
            row = {"precision": precision, "--recompute": again} | {
                f"batch {batch}, GB": found[batch] / 1e9 if batch in found else None
                for batch in (*batches, LARGEST)
            }
            row["a clip, MB"] = each / 1e6
            rows.append(
                row
                | {
                    f"largest batch on {size} GB (computed)": int((size * 1e9 - PUT_ASIDE) / each)
                    for size in DEVICES
                }
            )
    record.save("memory", rows, on=target)


def in_a_process(args, precision, batch, again):
    """Bytes that a step takes, measured in a new process."""
    options = ["--device", args.device, "--one", precision, str(batch), str(int(again))] + [
        "--quick"
    ] * args.quick
    done = subprocess.run([sys.executable, __file__, *options], stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(args):
    """Bytes that a step of one kind takes at most; on a GPU the second, once the first has chosen its kernels."""
    precision, batch, again = getattr(torch, args.one[0]), int(args.one[1]), bool(int(args.one[2]))
    with mock.patch.object(
        devices, "keep_freed_memory"
    ):  # so that what is resident is what is in use
        target = devices.choose(args.device)
    model = step.own_model(step.SMALL if args.quick else step.BASE, target)
    model.backbone.grad_checkpointing = again
    take = step.step_of(model, precision, batch, target)
    if target.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        take(), take()
        return torch.cuda.max_memory_allocated() - before
    before = resident()
    take()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before


def resident():
    """Bytes of memory that this process has now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def room(target):
    """Bytes of memory that the device has."""
    return (
        torch.cuda.mem_get_info(target)[1]
        if target.type == "cuda"
        else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    )


def parse():
    parser = record.parser(__doc__)
    parser.add_argument(
        "--one",
        nargs=3,
        metavar=("PRECISION", "BATCH", "RECOMPUTE"),
        help="measure one step in this process, and print its bytes",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main(parse())
