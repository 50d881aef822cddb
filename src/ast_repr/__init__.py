"""Music Instrument Classification Reprogrammed: a frozen AST, a small trainable input transformation, a linear label mapping."""
