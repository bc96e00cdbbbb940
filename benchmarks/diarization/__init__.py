"""Diarization of real conversations by this service and others: who spoke when, and who said which words."""
