"""The training recipe of diarization-nano: synthesise, train, tune, evaluate."""
