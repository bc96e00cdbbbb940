"""The stage that computes word timestamps: one pass of the decoder over the text, for a few windows at a time."""

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
"""Windows aligned together."""

MAX_WAIT_S = 0.1
"""The longest a window waits for others to share a pass."""


class AlignerStage:
    """The queue of windows that need word timestamps."""

    def __init__(self, model: WhisperModel) -> None:
        self._model = model
        self._since = 0.0
        self.waiting: list[WindowTask] = []

    def add(self, task: WindowTask) -> None:
        """Queue a window that has been decoded, and has text."""
        if not self.waiting:
            self._since = time.monotonic()
        self.waiting.append(task)

    def is_due(self, idle: bool) -> bool:
        """Return whether to run now: at once on a CPU, which gains nothing from batches, or when the engine is idle."""
        if not self.waiting:
            return False
        alone = idle or self._model.device.type == "cpu"
        return alone or len(self.waiting) >= BATCH_SIZE or time.monotonic() - self._since > MAX_WAIT_S

    def run(self) -> list[tuple[WindowTask, WindowText, float]]:
        """Align the windows that waited longest. Return each one's text, with words if requested, and where it ends."""
        tasks, self.waiting = self.waiting[:BATCH_SIZE], self.waiting[BATCH_SIZE:]
        card, device = self._model.card, self._model.device
        lines = [(*task.best_attempt.result.prefix, *task.best_attempt.tokens) for task in tasks]
        longest = max(map(len, lines))
        tokens = torch.tensor([[*line, *[card.tokens.end] * (longest - len(line))] for line in lines], device=device)
        states = torch.cat([task.states for task in tasks if task.states is not None])
        attention_weights = self._model.alignment_weights(states, tokens)
        cut = [
            weights[:, : len(line), : task.clip.length // HOP_SAMPLES // FRAMES_PER_STATE]
            for weights, line, task in zip(attention_weights, lines, tasks, strict=True)
        ]
        ends = token_ends(cut, [len(task.best_attempt.result.prefix) for task in tasks], card.median_filter)
        texts = []
        for task, own in zip(tasks, ends, strict=True):
            texts.append((task, self._with_words(task, own), float(own[-1])))
        return texts

    def _with_words(self, task: WindowTask, ends: NDArray[np.float64]) -> WindowText:
        """Return the text of a window, with words if requested. `ends`: the end of each token in seconds."""
        text = task.clip_text()
        if task.options.timestamps != "word":
            return text
        words = window_words(
            task.best_attempt.tokens,
            ends,
            task.best_attempt.result.text.logprobs[: len(task.best_attempt.tokens)],
            self._model.card.tokens,
            "en" if task.options.task == "translate" else text.language,
            task.seconds,
            self._model.detokenize,
        )
        segments = [
            segment.model_copy(update={"words": own}) for segment, own in zip(text.segments, words, strict=True)
        ]
        return text.model_copy(update={"segments": tuple(segments)})
