"""Several processes and several runs at a time."""
