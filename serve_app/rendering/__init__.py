"""Transcripts as JSON, text, subtitles and RTTM."""
