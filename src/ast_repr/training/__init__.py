"""Training of a run."""
