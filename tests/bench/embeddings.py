"""Rows that need no gradient through AST: an epoch on cached embeddings against computing them anew

AST-BS at the paper's size: the head learns on 20,000 embeddings of 768 numbers, random ones here, by the trainer itself, 30 epochs
with validation on a tenth as many. What an epoch would cost without the cache is AST-base's forward pass over the clips, in the
precision that training takes here: measured on a sample of 32 clips and multiplied, as the row says.
"""

import tempfile

import networks
import numpy as np
import record
import torch

from ast_repr import batches, device, methods, optimizer, trainer
from ast_repr.classifier import Probe, probabilities
from ast_repr.manifest import Clip

PLAN = {
    "batch_size": 16, "micro_batch": None, "patience": None, "clip_norm": 1.0, "schedule": {"name": "cosine", "warmup": 1},
    "select": {"split": "valid", "metric": "macro_f1", "mode": "max"}, "seed": 0,
}  # fmt: skip


def main(args):
    where = device.choose(args.device)
    count, epochs, sample, small = (1000, 3, 4, {"depth": 1}) if args.quick else (20_000, 30, 32, {})
    model, _ = networks.paper("none", **small)
    model.to(where).eval()
    batch = batches.Batch(torch.randn(sample, 1, 1024, 128), None, None)

    def anew():
        with torch.autocast(where.type, torch.bfloat16, enabled=device.has_bf16(where)):
            model.read(batch.features.to(where))

    computing = record.alternate({"": anew}, 3)[""] / sample
    train, valid = embeddings(count, 0), embeddings(count // 10, 1)
    with tempfile.TemporaryDirectory() as folder:
        method, plan = methods.build("supervised", model=Probe(model)).to(where), trainer.Plan(epochs=epochs, **PLAN)
        history = trainer.fit(method, optimizer.build("adamw", Probe(model), lr=0.005), train, valid, folder, plan, where)
    seconds, lost = np.array([row["seconds"] for row in history]), float(np.median(computing)) * count
    ratio = (lost + np.median(seconds)) / np.median(seconds)
    evaluation = record.alternate({"": lambda: probabilities(method.model_for_eval, valid.batches(16), where)}, 3)[""]
    record.save("embeddings", [
        {
            "epoch of": f"{count:,} cached embeddings", "on": where.type, **record.spread(seconds, "s"), "of it validation s": float(np.median(evaluation)),
            "epochs": epochs, "all epochs s": float(seconds.sum()), "times less than computing anew": float(ratio), **record.goal(ratio, least=100, unit=" times"),
        },
        {"computing embeddings anew": f"AST-base, {sample} clips measured", "on": where.type, **record.spread(computing), "per": "clip",
         f"{count:,} clips s (multiplied)": lost},
    ])  # fmt: skip


def embeddings(count, seed):
    """Clips with random embeddings, and labels of which a tenth are observed."""
    rng = np.random.default_rng(seed)
    labels = [{networks.CLASSES[k]: float(rng.random()) for k in rng.choice(20, 2, replace=False)} for _ in range(count)]
    clips = [Clip(f"{seed}-{i}", str(i), "", 0.0, "train", own) for i, own in enumerate(labels)]
    return batches.Clips(clips, networks.CLASSES, torch.from_numpy(rng.standard_normal((count, 768), np.float32)).__getitem__)


if __name__ == "__main__":
    main(record.parser(__doc__).parse_args())
