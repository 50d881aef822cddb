"""Trained models as files to share."""
