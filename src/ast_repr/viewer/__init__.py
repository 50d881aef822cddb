"""Predictions for people: text, figures, a web page."""
