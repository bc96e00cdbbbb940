"""Whisper: from windows of audio to text with timestamps. No other folder of the project runs the model.

`model/` has the forward passes, `decoding/` turns logits into text, `timing/` computes word timestamps, and `engine/`
batches the windows of all jobs. `window_text.py` is the result.
"""
