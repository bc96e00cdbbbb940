"""Transcribe one recording: fetch, decode, transcribe blocks of windows, diarize, merge."""
