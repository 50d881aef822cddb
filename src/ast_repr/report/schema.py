"""What a whole results.json holds, and what a damaged or outdated one lacks.

Metrics are fractions 0..1, or None if no label allows one (see ast_repr.metrics).
"""

import math

from .. import identity

FLOORS = {
    "always_absent": "always absent",
    "always_present": "always present",
}  # what constant predictions score
METRICS = ("macro_f1", "positive_f1", "map", "auroc")  # what a table shows of a run
PER_INSTRUMENT = ("macro_f1", "positive_f1", "absent_f1", "ap", "auroc")
NUMBER, OPTIONAL_NUMBER = (int, float), (int, float, type(None))
SCORES = dict.fromkeys(METRICS, OPTIONAL_NUMBER) | {"per_instrument": dict}
SHAPE = {
    "corpus": str,
    "protocol": str,
    "conf": str,
    "row": str,
    "seed": int,
    "norm": str,
    "feature": str,
    "reprogrammer": str,
    "backbone": {"name": str, "weights": str, "sha256": (str, type(None))},
    "classes": list,
    "trainable_parameters": int,
    "total_parameters": int,
    "macs": (int, type(None)),
    "label_fraction": NUMBER,
    "selection": {"split": str, "metric": str, "mode": str, "epoch": int},
    "epochs": int,
    "train_seconds": NUMBER,
    "seconds_per_epoch": NUMBER,
    "split": str,
    "clips": int,
    "observed": int,
    "threshold": NUMBER,
    "metrics": SCORES,
    "constant_baselines": dict.fromkeys(FLOORS, SCORES),
    "published": (dict, type(None)),
    "machine": {"device": str, "cores": int, "python": str, "torch": str, "platform": str},
    "commit": (str, type(None)),
}
PUBLISHED = {"macro_f1": list, "source": str, "corpus": str, "protocol": str}
INSTRUMENT = dict.fromkeys(PER_INSTRUMENT, OPTIONAL_NUMBER) | {
    "present": int,
    "absent": int,
}


def lacking(results) -> list[str]:
    """What a results.json lacks, or holds as another type: "'key' (type)"; empty if it is whole."""
    wrong = list(_wrong(results, SHAPE)) or list(_wrong_parts(results))
    if not wrong and not identity.is_sealed(results):
        wrong.append("'sha256' (of what was written)")
    return wrong


def lacking_in_history(line) -> list[str]:
    """The same for a line of history.jsonl, of which only what is drawn is looked at."""
    valid = {} if line.get("valid") is None else {"valid": {"macro_f1": OPTIONAL_NUMBER}}
    return list(_wrong(line, {"epoch": int} | valid))


def _wrong(found, shape, prefix=""):
    for key, kind in shape.items():
        value = found.get(key)
        if isinstance(kind, dict):
            if isinstance(value, dict):
                yield from _wrong(value, kind, f"{prefix}{key}.")
            else:
                yield f"{prefix + key!r} (object)"
            continue
        infinite = isinstance(value, float) and not math.isfinite(value)
        if key not in found or not isinstance(value, kind) or infinite:
            kinds = kind if isinstance(kind, tuple) else (kind,)
            names = [k.__name__ for k in kinds if k is not type(None)]
            yield f"{prefix + key!r} ({' or '.join(names)})"


def _wrong_parts(results):
    """The same for what depends on the list of classes, and for the published numbers."""
    classes = results["classes"]
    if not classes or not all(isinstance(name, str) for name in classes):
        yield "'classes' (names)"
        return
    places = {"metrics": results["metrics"]}
    for name in FLOORS:
        places[f"constant_baselines.{name}"] = results["constant_baselines"][name]
    for place, scores in places.items():
        for name in classes:
            shape = {name: INSTRUMENT}
            yield from _wrong(scores["per_instrument"], shape, f"{place}.per_instrument.")
    published = results["published"]
    if published is not None:
        # The published count of trained parameters, in millions, is known for some rows only.
        counted = {"trainable_parameters": NUMBER} if "trainable_parameters" in published else {}
        yield from _wrong(published, PUBLISHED | counted, "published.")
        values = published.get("macro_f1")
        if isinstance(values, list) and not all(isinstance(value, NUMBER) for value in values):
            yield "'published.macro_f1' (numbers)"
