"""Rendering of transcripts as JSON, text, subtitles and RTTM."""
