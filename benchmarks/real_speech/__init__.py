"""Our engine beside its peers on real speech, all with the same weights: `make bench-accuracy`."""
