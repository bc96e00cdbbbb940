"""Accuracy on real speech, side by side with other engines on the same weights: `make bench-accuracy`."""
