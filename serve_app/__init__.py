"""Whisper speech-to-text, everything that does not know Ray."""
