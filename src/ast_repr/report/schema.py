"""The structure of results.json, and what is missing in a damaged or outdated one.

Metrics are fractions 0..1, or None if no label allows one (see ast_repr.metrics).
"""

import math
from collections.abc import Iterator

from .. import identity

BASELINES = {"always_absent": "always absent", "always_present": "always present"}
METRICS = ("macro_f1", "positive_f1", "map", "auroc")  # in tables
PER_INSTRUMENT = ("macro_f1", "positive_f1", "absent_f1", "ap", "auroc")
NUMBER = (int, float)
OPTIONAL_NUMBER = (int, float, type(None))
OPTIONAL_TEXT = (str, type(None))
SCORES = dict.fromkeys(METRICS, OPTIONAL_NUMBER) | {"per_instrument": dict}
INSTRUMENT = dict.fromkeys(PER_INSTRUMENT, OPTIONAL_NUMBER) | {"present": int, "absent": int}
SCHEMA = {
    "corpus": str,
    "protocol": str,
    "conf": str,
    "seed": int,
    "norm": str,
    "feature": str,
    "reprogrammer": str,
    "backbone": {"name": str, "weights": str, "sha256": OPTIONAL_TEXT},
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
    "constant_baselines": dict.fromkeys(BASELINES, SCORES),
    "machine": {"device": str, "cores": int, "python": str, "torch": str, "platform": str},
    "commit": OPTIONAL_TEXT,
    "command": str,
}


def missing(results: dict) -> list[str]:
    """List what a results.json lacks or holds as another type, as "'key' (type)"."""
    problems = list(_missing(results, SCHEMA)) or list(_missing_instruments(results))
    if not problems and not identity.is_sealed(results):
        problems.append("'sha256' (of what was written)")
    return problems


def missing_in_history(line: dict) -> list[str]:
    """List the same for a line of history.jsonl, of which only what is drawn is checked."""
    schema = {"epoch": int}
    if line.get("valid") is not None:
        schema["valid"] = {"macro_f1": OPTIONAL_NUMBER}
    return list(_missing(line, schema))


def _missing(values: dict, schema: dict, prefix: str = "") -> Iterator[str]:
    for key, kind in schema.items():
        value = values.get(key)
        if isinstance(kind, dict):
            if isinstance(value, dict):
                yield from _missing(value, kind, f"{prefix}{key}.")
            else:
                yield f"{prefix + key!r} (object)"
            continue
        infinite = isinstance(value, float) and not math.isfinite(value)
        if key not in values or not isinstance(value, kind) or infinite:
            kinds = kind if isinstance(kind, tuple) else (kind,)
            words = [kind.__name__ for kind in kinds if kind is not type(None)]
            yield f"{prefix + key!r} ({' or '.join(words)})"


def _missing_instruments(results: dict) -> Iterator[str]:
    """The same for what depends on the list of classes."""
    classes = results["classes"]
    if not classes or not all(isinstance(name, str) for name in classes):
        yield "'classes' (names)"
        return
    schema = dict.fromkeys(classes, INSTRUMENT)
    yield from _missing(results["metrics"]["per_instrument"], schema, "metrics.per_instrument.")
    for name in BASELINES:
        prefix = f"constant_baselines.{name}.per_instrument."
        yield from _missing(results["constant_baselines"][name]["per_instrument"], schema, prefix)
