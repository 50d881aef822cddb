"""Predictions for a person: text, timeline, page."""
