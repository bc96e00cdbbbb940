"""Speaker diarization: pyannote pipelines, speakers of words, known speakers."""
