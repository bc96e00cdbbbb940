"""From a media file to windows of 16 kHz mono speech."""

SAMPLE_RATE = 16_000
"""Samples a second of every PCM array in this project (Whisper's input rate)."""
