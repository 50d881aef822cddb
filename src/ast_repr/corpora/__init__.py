"""Corpora: where clips and labels come from; `openmic` reads all but users' own data."""
