"""Words' times for windows whose text is known: one pass of the decoder over the text, a few windows at a time."""

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

BATCH = 8
"""Windows aligned together."""

PATIENCE_S = 0.1
"""A window waits for others at most so long."""


class Aligner:
    """Windows that wait for the times of their words."""

    def __init__(self, model: WhisperModel) -> None:
        self._model = model
        self._since = 0.0
        self.waiting: list[WindowTask] = []

    def add(self, work: WindowTask) -> None:
        """Queue a window whose tries are over, and which has text."""
        if not self.waiting:
            self._since = time.monotonic()
        self.waiting.append(work)

    def is_due(self, idle: bool) -> bool:
        """Whether to run now. A CPU gains nothing from company, an `idle` engine has nothing better to do."""
        if not self.waiting:
            return False
        alone = idle or self._model.device.type == "cpu"
        return alone or len(self.waiting) >= BATCH or time.monotonic() - self._since > PATIENCE_S

    def run(self) -> list[tuple[WindowTask, WindowText, float]]:
        """The texts of the windows that waited longest, with their words if asked for, and where the last one ends."""
        works, self.waiting = self.waiting[:BATCH], self.waiting[BATCH:]
        card, device = self._model.card, self._model.device
        lines = [(*work.best.result.prefix, *work.best.tokens) for work in works]
        longest = max(map(len, lines))
        tokens = torch.tensor([[*line, *[card.tokens.end] * (longest - len(line))] for line in lines], device=device)
        states = torch.cat([work.states for work in works if work.states is not None])
        looks = self._model.align(states, tokens)
        cut = [
            look[:, : len(line), : work.clip.length // HOP_SAMPLES // FRAMES_PER_STATE]
            for look, line, work in zip(looks, lines, works, strict=True)
        ]
        ends = token_ends(cut, [len(work.best.result.prefix) for work in works], card.median_filter)
        texts = []
        for work, own in zip(works, ends, strict=True):
            texts.append((work, self._with_words(work, own), float(own[-1])))
        return texts

    def _with_words(self, work: WindowTask, ends: NDArray[np.float64]) -> WindowText:
        """The text of a window, with its words if they were asked for, given where its tokens end."""
        text = work.text()
        if work.options.timestamps != "word":
            return text
        words = window_words(
            work.best.tokens,
            ends,
            work.best.result.text.logprobs[: len(work.best.tokens)],
            self._model.card.tokens,
            "en" if work.options.task == "translate" else text.language,
            work.seconds,
            self._model.detokenize,
        )
        segments = [
            segment.model_copy(update={"words": own}) for segment, own in zip(text.segments, words, strict=True)
        ]
        return text.model_copy(update={"segments": tuple(segments)})
