"""The training recipe of whisper-nano: synthesise, train, evaluate."""
