"""Audio: decoding of media files, voice activity detection, and cutting into windows of 16 kHz mono speech."""

SAMPLE_RATE = 16_000
"""Sample rate in Hz of all PCM arrays: Whisper's input rate."""
