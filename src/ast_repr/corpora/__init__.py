"""Corpora: where clips and labels come from. Every corpus is read in OpenMIC-2018's layout by `openmic`."""
