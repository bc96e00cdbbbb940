"""The recipe of the embedded diarization: synthesise, train, tune, evaluate."""
