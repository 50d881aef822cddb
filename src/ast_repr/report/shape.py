"""What a whole results.json holds, and what a damaged or outdated one lacks.

Metrics are fractions 0..1, or None where no label allows one (an instrument with one class observed has no AUROC).
"""

import math

FLOORS = {
    "always_absent": "always absent",
    "always_present": "always present",
}  # what constant predictions score
METRICS = ("macro_f1", "positive_f1", "map", "auroc")  # what a table shows of a run
PER_INSTRUMENT = ("macro_f1", "positive_f1", "absent_f1", "ap", "auroc")
NUMBER, OPTIONAL_NUMBER = (int, float), (int, float, type(None))
SCORES = dict.fromkeys(METRICS, OPTIONAL_NUMBER) | {
    "macro_f1": NUMBER,
    "per_instrument": dict,
}
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
    "floors": dict.fromkeys(FLOORS, SCORES),
    "published": (dict, type(None)),
    "machine": {"device": str, "cores": int, "python": str, "torch": str, "platform": str},
    "commit": (str, type(None)),
}
PUBLISHED = {"macro_f1": list, "source": str, "corpus": str, "protocol": str}
INSTRUMENT = dict.fromkeys(PER_INSTRUMENT, OPTIONAL_NUMBER) | {
    "present": int,
    "absent": int,
}


def lacking(results):
    """List of what a results.json lacks, or holds as another type, as "'key' (type)"; empty for a whole one."""
    return list(_wrong(results, SHAPE)) or list(_wrong_parts(results))


def _wrong(found, shape, prefix=""):
    for key, kind in shape.items():
        value = found.get(key)
        if isinstance(kind, dict):
            yield from (
                _wrong(value, kind, f"{prefix}{key}.")
                if isinstance(value, dict)
                else [f"{prefix + key!r} (object)"]
            )
        elif (
            key not in found
            or not isinstance(value, kind)
            or isinstance(value, float)
            and not math.isfinite(value)
        ):
            kinds = kind if isinstance(kind, tuple) else (kind,)
            yield f"{prefix + key!r} ({' or '.join(k.__name__ for k in kinds if k is not type(None))})"


def _wrong_parts(results):
    """The same for what hangs on the list of classes and on the published numbers."""
    places = {"metrics": results["metrics"]} | {
        f"floors.{name}": floor for name, floor in results["floors"].items()
    }
    for place, scores in places.items():
        for name in results["classes"]:
            yield from _wrong(
                scores["per_instrument"], {name: INSTRUMENT}, f"{place}.per_instrument."
            )
    if results["published"] is not None:
        # The published count of trained parameters, in millions, is known for some rows only.
        counted = (
            {"trainable_parameters": NUMBER}
            if "trainable_parameters" in results["published"]
            else {}
        )
        yield from _wrong(results["published"], PUBLISHED | counted, "published.")
