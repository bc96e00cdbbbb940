"""Speaker diarization: pyannote pipelines, the assignment of words to speakers, known speakers."""
