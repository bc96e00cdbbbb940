"""The recipe of the embedded checkpoint: synthesise, train, evaluate."""
