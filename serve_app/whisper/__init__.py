"""Whisper: decodes windows of audio to text with timestamps. No other folder runs the model.

`model/`: forward passes. `decoding/`: from logits to text. `timing/`: word timestamps. `engine/`: batching of the
windows of all jobs. `window_text.py`: the result.
"""
