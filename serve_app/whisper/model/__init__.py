"""The checkpoint and its forward passes: features, encoder, decoder steps, attention, special tokens."""
