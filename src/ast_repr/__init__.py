"""Music Instrument Classification Reprogrammed.

A frozen Audio Spectrogram Transformer, a small trainable input transformation and a linear label
mapping.
"""
