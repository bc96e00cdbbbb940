"""The Insanely-Fast-Whisper API."""
