"""One thread that turns windows of many jobs into text, batch by batch."""

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from serve_app.audio import SAMPLE_RATE
from serve_app.errors import Unavailable
from serve_app.models import LONGEST_WINDOW_S
from serve_app.options import TranscriptionOptions
from serve_app.whisper.decoder import Decoded, Decoder, Instruction
from serve_app.whisper.model import WhisperModel
from serve_app.whisper.scheduler import Batching, Scheduler
from serve_app.whisper.text import WindowText, compression_ratio, window_segments

MAX_FAILURES = 8
"""Windows that may fail in a row before the engine calls itself ill: no window's content is to blame for so many."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineStats:
    """What an engine has done since it started, and what waits.

    `windows` were finished, with `tokens` tokens; `failed` ended in an error. `batches` counts
    encoder calls, `encoded` the windows in them. Seconds are the engine thread's.
    """

    windows: int = 0
    failed: int = 0
    tokens: int = 0
    batches: int = 0
    encoded: int = 0
    encode_s: float = 0.0
    decode_s: float = 0.0
    waiting: int = 0

    @property
    def mean_batch_size(self) -> float:
        return self.encoded / self.batches if self.batches else 0.0


@dataclass(frozen=True, eq=False)
class _Window:
    pcm: NDArray[np.int16]
    options: TranscriptionOptions
    future: "Future[WindowText]" = field(default_factory=Future)


class Engine:
    """Batches windows across jobs. Its methods may be called from any thread."""

    def __init__(self, model: WhisperModel, batching: Batching | None = None) -> None:
        self._model = model
        self._decoder = Decoder(model)
        self._batching = batching or Batching()
        self._scheduler: Scheduler[_Window] = Scheduler()
        self._changed = threading.Condition()
        self._stats = EngineStats()
        self._closed = False
        self._failures = 0  # in a row
        self._thread = threading.Thread(target=self._run, name="whisper-engine", daemon=True)
        self._thread.start()

    def submit(self, pcm: NDArray[np.int16], options: TranscriptionOptions, job: str) -> "Future[WindowText]":
        """Queue a window of 16 kHz mono sound, at most 30 s, for a job.

        Cancelling the future frees the window's place in the queue; once its batch has begun it runs on.
        Raises InvalidRequest for options the model can't honour, ValueError for sound it can't take,
        Unavailable after `close`.
        """
        self._model.card.check(options)
        if pcm.dtype != np.int16 or pcm.ndim != 1 or not 0 < len(pcm) <= LONGEST_WINDOW_S * SAMPLE_RATE:
            raise ValueError(
                f"a window is mono int16 of at most {LONGEST_WINDOW_S:g} s: got {pcm.dtype} of shape {pcm.shape}"
            )
        window = _Window(pcm, options)
        with self._changed:
            if self._closed:
                raise Unavailable("the engine is closed")
            self._scheduler.add(job, window, time.monotonic())
            self._changed.notify()
        window.future.add_done_callback(lambda future: self._discard(job, window) if future.cancelled() else None)
        return window.future

    def reconfigure(self, batching: Batching) -> None:
        """Batch differently from the next batch on."""
        with self._changed:
            self._batching = batching
            self._changed.notify()

    @property
    def batching(self) -> Batching:
        return self._batching

    def check(self) -> None:
        """Raise RuntimeError when nothing would be done any more: the thread has ended, or every window fails."""
        if not self._thread.is_alive():
            raise RuntimeError("the engine's thread has ended")
        if self._failures >= MAX_FAILURES:
            raise RuntimeError(f"the last {self._failures} windows all failed: the device is not well")

    def stats(self) -> EngineStats:
        """What was done so far."""
        with self._changed:
            return replace(self._stats, waiting=len(self._scheduler))

    def close(self) -> None:
        """Finish the batch at hand, cancel what waits, and end the thread."""
        with self._changed:
            self._closed = True
            waiting = self._scheduler.take(len(self._scheduler))
            self._changed.notify()
        for window in waiting:
            window.future.cancel()
            window.future.set_running_or_notify_cancel()
        self._thread.join()

    def _discard(self, job: str, window: _Window) -> None:
        with self._changed:
            waiting = self._scheduler.discard(job, window)
        if waiting:  # else the batch that took it has told those who wait for the future
            window.future.set_running_or_notify_cancel()

    def _run(self) -> None:
        while (batch := self._next_batch()) is not None:
            self._process(batch)

    def _next_batch(self) -> list[_Window] | None:
        """Wait for work; None when the engine is closed."""
        idle = False
        with self._changed:
            while not self._closed:
                delay = self._scheduler.delay(self._batching, idle, time.monotonic())
                if delay == 0:
                    taken = self._scheduler.take(self._batching.max_batch_size)
                    return [window for window in taken if window.future.set_running_or_notify_cancel()]
                idle = idle or delay is None
                self._changed.wait(delay)
        return None

    def _process(self, batch: Sequence[_Window]) -> None:
        """Transcribe a batch; after an error each window that is not done is tried by itself."""
        error = self._attempt(batch)
        if error is None:
            return
        failed = [window for window in batch if not window.future.done()]
        if len(batch) > 1:
            logger.warning("a batch of %d windows failed; retrying %d one by one", len(batch), len(failed))
            for window in failed:
                self._process([window])
            return
        self._count(failed=len(failed))
        self._failures += len(failed)
        for window in failed:
            window.future.set_exception(error)

    def _attempt(self, batch: Sequence[_Window]) -> Exception | None:
        try:
            self._transcribe(batch)
        except Exception as error:
            logger.exception("transcribing %d windows failed", len(batch))
            # The traceback holds the batch's tensors, and memory may be what was wanting.
            return error.with_traceback(None)
        return None

    def _transcribe(self, batch: Sequence[_Window]) -> None:
        if not batch:
            return
        start = time.perf_counter()
        states = self._model.encode(self._model.features([window.pcm for window in batch]))
        self._model.synchronize()
        encoded = time.perf_counter()
        self._count(batches=1, encoded=len(batch), encode_s=encoded - start)
        try:
            instructions = [self._instruction(window.options) for window in batch]
            for index, decoded in self._decoder.decode(states, instructions):
                window = batch[index]
                text = self._text(window, decoded)
                self._count(windows=1, tokens=len(decoded.tokens))
                self._failures = 0
                window.future.set_result(text)
        finally:
            self._count(decode_s=time.perf_counter() - encoded)

    def _instruction(self, options: TranscriptionOptions) -> Instruction:
        language = None if options.language is None else self._model.card.tokens.languages.get(options.language)
        prompt = () if options.prompt is None else self._model.prompt(options.prompt)
        return Instruction(prompt=prompt, language=language, task=options.task)

    def _text(self, window: _Window, decoded: Decoded) -> WindowText:
        special = self._model.card.tokens
        segments = window_segments(decoded.tokens, special, len(window.pcm) / SAMPLE_RATE, self._model.text)
        text = "".join(segment.text for segment in segments).strip()
        return WindowText(
            language="en" if decoded.language is None else special.language_of(decoded.language),
            text=text,
            segments=segments,
            tokens=decoded.tokens,
            avg_logprob=decoded.sum_logprob / (len(decoded.tokens) + 1),
            no_speech_prob=decoded.no_speech_prob,
            compression_ratio=compression_ratio(text),
        )

    def _count(self, **more: float) -> None:
        with self._changed:
            self._stats = replace(self._stats, **{name: getattr(self._stats, name) + n for name, n in more.items()})
