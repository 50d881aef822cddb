"""Features on disk, and the clips of a split in batches."""
