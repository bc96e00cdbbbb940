"""The alignment stage of the engine: word timestamps by one decoder pass over the texts of a few windows."""

import time

import numpy as np
import torch
from numpy.typing import NDArray

from serve_app.whisper.engine.window_task import WindowTask
from serve_app.whisper.model.features import FRAMES_PER_STATE, HOP_SAMPLES
from serve_app.whisper.model.whisper_model import WhisperModel
from serve_app.whisper.timing.dtw import token_ends
from serve_app.whisper.timing.word_timestamps import window_words
from serve_app.whisper.window_text import WindowText

BATCH_SIZE = 8
"""Maximum number of windows aligned together."""

MAX_WAIT_S = 0.1
"""Maximum time a window waits for others to share a pass."""


class AlignerStage:
    """The queue of windows that need word timestamps."""

    def __init__(self, model: WhisperModel) -> None:
        self._model = model
        self._waiting_since = 0.0
        self.waiting: list[WindowTask] = []

    def add(self, task: WindowTask) -> None:
        """Queue a window that has been decoded and has text."""
        if not self.waiting:
            self._waiting_since = time.monotonic()
        self.waiting.append(task)

    def is_due(self, idle: bool) -> bool:
        """Return whether to run now. `idle`: the decoder has no work. On a CPU always: batches are not faster."""
        if not self.waiting:
            return False
        is_immediate = idle or self._model.device.type == "cpu"
        return is_immediate or len(self.waiting) >= BATCH_SIZE or time.monotonic() - self._waiting_since > MAX_WAIT_S

    def run(self) -> list[tuple[WindowTask, WindowText, float]]:
        """Align the windows that waited longest. Return their texts, with words if requested, and ends in seconds."""
        tasks, self.waiting = self.waiting[:BATCH_SIZE], self.waiting[BATCH_SIZE:]
        card, device = self._model.card, self._model.device
        sequences = [(*task.best_attempt.result.prefix, *task.best_attempt.tokens) for task in tasks]
        longest = max(map(len, sequences))
        padded = [[*sequence, *[card.tokens.end] * (longest - len(sequence))] for sequence in sequences]
        tokens = torch.tensor(padded, device=device)
        states = torch.cat([task.states for task in tasks if task.states is not None])
        attention_weights = self._model.alignment_weights(states, tokens)
        audio_weights = [
            weights[:, : len(sequence), : task.clip.length // HOP_SAMPLES // FRAMES_PER_STATE]
            for weights, sequence, task in zip(attention_weights, sequences, tasks, strict=True)
        ]
        ends = token_ends(audio_weights, [len(task.best_attempt.result.prefix) for task in tasks], card.median_filter)
        texts = []
        for task, window_ends in zip(tasks, ends, strict=True):
            texts.append((task, self._with_words(task, window_ends), float(window_ends[-1])))
        return texts

    def _with_words(self, task: WindowTask, ends: NDArray[np.float64]) -> WindowText:
        """Return the text of a window's clip, with words if requested. `ends`: the end of each token in seconds."""
        text = task.clip_text()
        if task.options.timestamps != "word":
            return text
        words = window_words(
            task.best_attempt.tokens,
            ends,
            task.best_attempt.result.hypothesis.logprobs[: len(task.best_attempt.tokens)],
            self._model.card.tokens,
            "en" if task.options.task == "translate" else text.language,
            task.seconds,
            self._model.detokenize,
        )
        segments = [
            segment.model_copy(update={"words": segment_words})
            for segment, segment_words in zip(text.segments, words, strict=True)
        ]
        return text.model_copy(update={"segments": tuple(segments)})
