"""The interface of the engines of benchmarks.speed, and this project's engine behind it.

An engine is loaded with a checkpoint folder and a number of threads. It is then a function of a Workload and a
RunConfig that returns the results of all windows, in order.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers import WhisperTokenizerFast

from benchmarks.workloads import Workload
from serve_app.schemas.request import MODEL_DEFAULT_TOKENS, TranscriptionOptions
from serve_app.settings import WhisperSettings
from serve_app.whisper.engine.engine import Engine
from serve_app.whisper.engine.scheduler import Batching
from serve_app.whisper.model.whisper_model import WhisperModel

TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Whisper's temperatures for fallback, in order."""


@dataclass(frozen=True)
class RunConfig:
    """The number of windows decoded together, and the decoding method.

    `beam_size`: 1 is greedy. `fallback`: texts that fail Whisper's thresholds are retried at higher temperatures by the
    engines that support it, which faster-whisper's batches, CTranslate2 alone and transformers' pipeline do not.

    `static`: our engine in groups, like engines without continuous batching: the next group starts when the longest
    text of the group before has ended, and until then every row is computed. Tokens beyond a row's own text do not
    count.
    """

    batch_size: int = 16
    static: bool = False
    beam_size: int = 1
    fallback: bool = False

    @property
    def temperatures(self) -> tuple[float, ...]:
        """The temperatures to try."""
        return TEMPERATURES if self.fallback else TEMPERATURES[:1]


class WindowResult(NamedTuple):
    """The text of a window, and its number of tokens without special ones."""

    tokens: int
    text: str


Transcribe = Callable[[Workload, RunConfig], list[WindowResult]]
Load = Callable[[Path, int], Transcribe]


def to_float(pcm: NDArray[np.int16]) -> NDArray[np.float32]:
    """Convert 16-bit samples to floats between -1 and 1."""
    return pcm.astype(np.float32) / 32768


def in_batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Yield batches of `size` items."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


class WhisperServe:
    """This project's engine, with one instance for each number of rows."""

    def __init__(self, checkpoint: Path, threads: int) -> None:
        self._model = WhisperModel.load(str(checkpoint), WhisperSettings(device="cpu", threads=threads))
        self._end = WhisperTokenizerFast.from_pretrained(checkpoint).eos_token_id
        self._engines: dict[int, Engine] = {}

    def __call__(self, workload: Workload, config: RunConfig) -> list[WindowResult]:
        rows = config.batch_size * config.beam_size
        if rows not in self._engines:
            self._engines[rows] = Engine(self._model, Batching(max_batch_size=rows))
        engine = self._engines[rows]
        options = TranscriptionOptions(
            language=workload.language,
            timestamps="none",
            temperature_increment_on_fallback=0.2 if config.fallback else None,
            beam_size=config.beam_size,
            best_of=config.beam_size,
        )
        windows = list(zip(workload.windows, workload.lengths or [None] * len(workload.ends), strict=True))
        results: list[WindowResult] = []
        for group in in_batches(windows, config.batch_size if config.static else len(windows)):
            longest = max((length for _, length in group if length), default=None)
            futures = [
                engine.submit(pcm, self._bounded(options, longest if config.static else length), "benchmark")
                for pcm, length in group
            ]
            for (_, length), future in zip(group, futures, strict=True):
                text = future.result()
                results.append(WindowResult(length or len(text.tokens), text.text))
        return results

    def _bounded(self, options: TranscriptionOptions, length: int | None) -> TranscriptionOptions:
        """Return options with an exact number of tokens; None: until the model ends."""
        if length is None:
            return options
        return options.model_copy(
            update={"max_new_tokens": length, "suppress_tokens": (MODEL_DEFAULT_TOKENS, self._end)}
        )
