"""The catalogue of named backbones, for code that imports backbones anyway; the work is in ast_repr/catalogue.py."""

from ..catalogue import Entry, find

__all__ = ["Entry", "find"]
