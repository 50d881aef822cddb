"""Names in results.json, whose metrics are fractions 0..1, or None (see ast_repr.metrics)."""

OBSERVED = "observed labels"
TRUTH = "truth"  # of a corpus that knows every cell
BASELINES = {"always_absent": "always absent", "always_present": "always present"}
PER_INSTRUMENT = ("macro_f1", "positive_f1", "absent_f1", "ap", "auroc")
# Keys without which a run cannot be reported; results of an earlier version may lack some.
REQUIRED = (
    "corpus",
    "protocol",
    "conf",
    "seed",
    "command",
    "commit",
    "machine",
    "files",
    "feature",
    "norm",
    "reprogrammer",
    "backbone",
    "clip_fraction",
    "label_fraction",
    "train_clips",
    "classes",
    "trainable_parameters",
    "total_parameters",
    "macs",
    "selection",
    "epochs",
    "train_seconds",
    "seconds_per_epoch",
    "split",
    "clips",
    "observed",
    "threshold",
    "metrics",
    "constant_baselines",
)
