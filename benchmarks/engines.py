"""The interface that the engines of benchmarks.speed share, and ours behind it.

An engine is loaded with a checkpoint's folder and a number of threads, and is then a function of Work and How
that returns what it heard in each window it decoded, in order.
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
"""Whisper's temperatures, each tried when a text of the one before fails a threshold."""


@dataclass(frozen=True)
class RunConfig:
    """Windows decoded together, and how their texts are searched.

    `beam_size`: 1 is greedy. `fallback`: a text that fails Whisper's thresholds is tried again hotter, by the engines
    that can: neither faster-whisper's batches nor CTranslate2 alone nor transformers' pipeline does.

    `static`: ours in groups, as engines without slots decode: the next group begins when the longest text of the one
    before has ended, and until then every row is computed. What a row writes beyond its own text does not count.
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
    """Tokens of a window, without special ones, and its text."""

    tokens: int
    text: str


Transcribe = Callable[[Workload, RunConfig], list[WindowResult]]
Load = Callable[[Path, int], Transcribe]


def to_float(pcm: NDArray[np.int16]) -> NDArray[np.float32]:
    """Samples between -1 and 1."""
    return pcm.astype(np.float32) / 32768


def in_batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Items, `size` at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


class WhisperServe:
    """The project's engine. One for each number of rows, made when it is first asked for."""

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
        """With exactly so many tokens; null: until the model ends."""
        if length is None:
            return options
        return options.model_copy(
            update={"max_new_tokens": length, "suppress_tokens": (MODEL_DEFAULT_TOKENS, self._end)}
        )
