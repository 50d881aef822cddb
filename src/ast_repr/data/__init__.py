"""Clips: manifest, features on disk, batches."""
