"""Several processes for one run: training steps a second, and what travels

U-Net, frozen AST and linear head on random log-mels, forward, backward and AdamW, in the precision that training takes here.
Batch and total number of CPU threads stay the same whatever the number of processes, so on the CPU nothing but the cost of
sharing is seen; GPUs are one a process. The numbers of processes do not take turns: each is timed once, after the one before.
"""

import json
import tempfile
import time
from functools import partial
from pathlib import Path

import networks
import record
import torch

from ast_repr import devices, methods
from ast_repr.data.dataset import Batch
from ast_repr.distributed import launch, process_group
from ast_repr.training import optimizer


def main():
    args = parse()
    gpus = torch.cuda.device_count()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size in [size for size in args.processes if not gpus or size <= gpus]:
            found = Path(folder) / str(size)
            launch.run(partial(work, args, found), [], devices.device_groups("auto", size, 1, 1))
            said = json.loads(found.read_text())
            rows.append({"processes": size, "batch": args.batch, **said})
    for row in rows:
        row["against the first"] = row["steps/s"] / rows[0]["steps/s"]
    record.save("scaling", rows, on=rows[0]["device"])


def work(args, found, group, device, tasks):
    """Time some steps; rank 0 writes what came of it to `found`."""
    torch.manual_seed(0)
    model, _ = networks.paper(
        embed_dim=args.embed_dim,
        depth=args.depth,
        num_heads=args.embed_dim // 64,
        stride=args.stride,
    )
    model.to(device)
    travels = (
        process_group.bytes_per_step(model, args.batch, len(networks.CLASSES))
        if group.size > 1
        else 0
    )
    process_group.shard_batch(model, group)
    method, own = methods.build("supervised", model=model), optimizer.build("adamw", model, 1e-3)
    cells = torch.rand(args.batch, len(networks.CLASSES))
    batch = Batch(torch.randn(args.batch, 1, 1024, 128), cells, cells >= 0).to(device)
    for step in range(1 + args.steps):
        own.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=devices.has_bf16(device)):
            loss = method.step(batch, 0)["loss"]
        loss.backward()
        group.all_reduce_gradients(model.trainable_parameters())
        own.step()
        if step == 0:  # a warm-up
            group.barrier()
            record.synchronise()
            started = time.perf_counter()
    record.synchronise()
    seconds = (time.perf_counter() - started) / args.steps
    if group.rank == 0:
        threads = torch.get_num_threads()
        found.write_text(
            json.dumps(
                {
                    "device": device.type,
                    "threads each": threads,
                    "steps/s": 1 / seconds,
                    "kB a step": travels / 1000,
                }
            )
        )


def parse():
    parser = record.parser(__doc__, device=False)
    parser.add_argument(
        "--processes",
        type=int,
        nargs="+",
        default=[1, 2, 4],
        help="how many; more than there are GPUs are left out",
    )
    parser.add_argument(
        "--batch", type=int, default=16, help="rows of a step, of all processes together"
    )
    parser.add_argument(
        "--steps", type=int, default=10, help="steps that are timed, after one that is not"
    )
    parser.add_argument(
        "--embed-dim",
        type=int,
        default=768,
        help="of the AST, a multiple of 64; the defaults are AST-base",
    )
    parser.add_argument("--depth", type=int, default=12, help="of the AST")
    parser.add_argument("--stride", type=int, default=10, help="of its patches")
    args = parser.parse_args()
    if args.quick:
        args.embed_dim, args.depth, args.stride, args.batch, args.steps, args.processes = (
            64,
            1,
            16,
            4,
            3,
            [1, 2],
        )
    return args


if __name__ == "__main__":
    main()
