"""The training recipes of the embedded models."""
