"""Decoding: logit filters, greedy decoding, sampling and beam search, temperature fallback, and the KV cache."""
