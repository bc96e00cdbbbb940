"""One thread that turns windows of many jobs into text, many at a time."""

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from serve_app.audio import SAMPLE_RATE
from serve_app.audio.spans import Span, total
from serve_app.errors import InvalidRequest, Unavailable
from serve_app.models import LONGEST_WINDOW_S
from serve_app.options import TranscriptionOptions
from serve_app.whisper.decoding.decoder import Decoder, SequenceState
from serve_app.whisper.engine.aligner_stage import Aligner
from serve_app.whisper.engine.encoder_stage import EncoderStage, EncodingBatch
from serve_app.whisper.engine.scheduler import Batching, Scheduler, WindowRequest
from serve_app.whisper.engine.window_task import WindowTask, prompt_tokens
from serve_app.whisper.model.whisper_model import WhisperModel
from serve_app.whisper.window_text import WindowText

MAX_FAILURES = 8
"""Windows that may fail in a row before the engine calls itself ill: no window's content is to blame for so many."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineStats:
    """What an engine has done since it started, and what waits.

    `windows` were finished, with `tokens` tokens; `failed` ended in an error. `encoded` counts windows that
    went through the encoder, `tries` through the decoder; `continued` more stretches were decoded where a text ended
    before the speech of its window did, and `uncovered_s` seconds of detected speech have no text all the same.
    `steps` of the decoder had `rows` rows together. `waiting` windows are queued now, and `decoding` have rows.
    """

    windows: int = 0
    failed: int = 0
    tokens: int = 0
    encoded: int = 0
    tries: int = 0
    continued: int = 0
    uncovered_s: float = 0.0
    steps: int = 0
    rows: int = 0
    waiting: int = 0
    decoding: int = 0

    @property
    def mean_batch_size(self) -> float:
        """Rows a step, on average."""
        return self.rows / self.steps if self.steps else 0.0


class Engine:
    """Decodes windows of many jobs side by side. Its methods may be called from any thread.

    `watchdog_s`: `check` calls it ill when no step has ended for so long.
    """

    def __init__(self, model: WhisperModel, batching: Batching | None = None, watchdog_s: float = 60.0) -> None:
        self._model = model
        self._watchdog_s = watchdog_s
        self._batching = batching or Batching()
        self._scheduler: Scheduler[WindowTask] = Scheduler()
        self._decoder = Decoder(model, self._batching.max_batch_size)
        self._encoder = EncoderStage(model)
        self._aligner = Aligner(model)
        self._encoding: EncodingBatch | None = None
        self._decoding: dict[SequenceState, WindowTask] = {}
        self._pending: dict[WindowTask, WindowRequest] = {}
        self._changed = threading.Condition()
        self._stats = EngineStats()
        self._closed = False
        self._failures = 0  # in a row
        self._bulk_blocked_until = 0.0
        self._last_heartbeat = (
            math.inf
        )  # when the thread last came on; it is not expected to while there is nothing to do
        self._thread = threading.Thread(target=self._run, name="whisper-engine", daemon=True)
        self._thread.start()

    def submit(
        self,
        pcm: NDArray[np.int16],
        options: TranscriptionOptions,
        job: str,
        *,
        previous: Sequence[int] = (),
        interactive: bool = True,
        speech: Sequence[Span] | None = None,
    ) -> "Future[WindowText]":
        """Queue a window of 16 kHz mono sound, at most 30 s, for a job.

        `previous`: tokens of what was said before. `speech`: where speech was detected, in samples of the window and
        in order, null if it was not looked for: what a text leaves out of it is decoded on its own. Interactive windows
        go before others. Cancelling the future frees the window's place, in the queue or in the decoder.
        Raises InvalidRequest for options the model can't honour, ValueError for sound it can't take, Unavailable after
        `close`.
        """
        self._model.card.check(options)
        if pcm.dtype != np.int16 or pcm.ndim != 1 or not 0 < len(pcm) <= LONGEST_WINDOW_S * SAMPLE_RATE:
            raise ValueError(
                f"a window is mono int16 of at most {LONGEST_WINDOW_S:g} s: got {pcm.dtype} of shape {pcm.shape}"
            )
        most = self._batching.max_batch_size
        if options.beam_size is None:
            options = options.model_copy(update={"beam_size": min(self._model.card.beam_size, most)})
        for name in ("beam_size", "best_of"):
            if getattr(options, name) > most:
                raise InvalidRequest(f"this engine decodes {most} texts at a time", name)
        found = None if speech is None else tuple(speech)
        work = WindowTask(pcm, options, prompt_tokens(self._model, options), tuple(previous), self._model, found)
        claim = WindowRequest(job, work.seconds, work.rows, interactive, options.batch_size)
        with self._changed:
            if self._closed:
                raise Unavailable("the engine is closed")
            self._pending[work] = claim
            self._scheduler.add(claim, work, time.monotonic())
            self._changed.notify()
        work.future.add_done_callback(lambda future: self._cancel_queued(work) if future.cancelled() else None)
        return work.future

    def reconfigure(self, batching: Batching) -> None:
        """Batch differently; another number of rows takes effect when those that are decoded now have ended."""
        with self._changed:
            self._batching = batching
            self._changed.notify()

    def tokenize(self, text: str) -> tuple[int, ...]:
        """The tokens of a text, to go before a window's."""
        return self._model.tokenize(text)

    @property
    def batching(self) -> Batching:
        return self._batching

    def check(self) -> None:
        """Raise RuntimeError when nothing would be done any more: the thread has ended, or hangs, or all fails."""
        if not self._thread.is_alive():
            raise RuntimeError("the engine's thread has ended")
        stuck_s = time.monotonic() - self._last_heartbeat
        if stuck_s > self._watchdog_s:
            raise RuntimeError(f"the engine's thread has not come on for {stuck_s:.0f} s: the device hangs")
        if self._failures >= MAX_FAILURES:
            raise RuntimeError(f"the last {self._failures} windows all failed: the device is not well")

    def stats(self) -> EngineStats:
        """What was done so far, and what is to be done."""
        with self._changed:
            return replace(self._stats, waiting=len(self._scheduler), decoding=len(self._decoding))

    def close(self) -> None:
        """Cancel what has not ended, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        for work in list(self._pending):
            work.future.cancel()
            self._untrack(work)

    def _cancel_queued(self, work: WindowTask) -> None:
        with self._changed:
            waiting = self._scheduler.discard(work)
            self._changed.notify()
        if waiting:  # else the thread finds it cancelled
            self._untrack(work)

    def _run(self) -> None:
        torch.set_num_threads(self._model.threads)
        while (taken := self._schedule()) is not None:
            self._last_heartbeat = time.monotonic()
            if taken:
                self._run_with_isolation(taken, partial(self._start_encoding, taken))
            if self._encoding and (self._encoding.is_ready() or not self._decoder.has_work):
                encoding, self._encoding = self._encoding, None
                self._run_with_isolation(encoding.tasks, partial(self._finish_encoding, encoding))
            self._abort_cancelled()
            if self._decoder.has_work:
                self._run_with_isolation(list(self._decoding.values()), self._run_step)
            if self._aligner.is_due(idle=not self._decoder.has_work):
                self._run_with_isolation(self._aligner.waiting, self._run_aligner)

    def _schedule(self) -> list[WindowTask] | None:
        """Windows to begin with; waits while there is nothing to do at all; None when the engine is closed."""
        with self._changed:
            while not self._closed:
                if self._batching.max_batch_size != self._decoder.size and not self._decoder.has_work:
                    self._decoder = Decoder(self._model, self._batching.max_batch_size)
                taken = []
                # One lot at a time: who is most urgent is asked again for the next.
                if not self._encoding and self._batching.max_batch_size == self._decoder.size and self._has_room:
                    now = time.monotonic()
                    # While an interactive window is decoded, letting others in takes half of the time at most.
                    interactive_only = now < self._bulk_blocked_until and self._scheduler.serves_interactive
                    taken = self._scheduler.schedule(
                        self._batching, now, self._encoder.batch_size, only_interactive=interactive_only
                    )
                if taken or self._encoding or self._decoder.has_work or self._aligner.waiting:
                    return taken
                self._last_heartbeat = math.inf
                self._changed.wait()
        return None

    @property
    def _has_room(self) -> bool:
        """Whether it pays to let windows in: a device takes twice as long for one by one as for a lot at once."""
        return not self._decoder.has_work or self._decoder.free_rows >= min(
            self._encoder.batch_size, self._decoder.size // 8
        )

    def _start_encoding(self, works: Sequence[WindowTask]) -> None:
        self._encoding = self._encoder.start(works)
        self._add_stats(encoded=sum(1 for work in works if not work.attempts))

    def _finish_encoding(self, encoding: EncodingBatch) -> None:
        self._start_decoding(encoding)
        now = time.monotonic()
        self._bulk_blocked_until = now + (now - encoding.started)

    def _start_decoding(self, encoding: EncodingBatch) -> None:
        works = [work for work in encoding.join() if not self._release_if_cancelled(work)]
        if not works:
            return
        instructions = [work.decode_request() for work in works]
        attempts = self._decoder.add_sequences(
            torch.cat([work.states for work in works if work.states is not None]), instructions
        )
        self._decoding.update(zip(attempts, works, strict=True))
        self._add_stats(tries=len(works))

    def _run_step(self) -> None:
        rows = self._decoder.size - self._decoder.free_rows
        for attempt in self._decoder.step():
            work = self._decoding.pop(attempt)
            assert attempt.result is not None
            ended = work.add_result(attempt.result)
            self._release_rows(work)
            if not ended:
                self._requeue(work)
            elif work.best.tokens and (work.options.timestamps == "word" or work.end_unknown):
                self._aligner.add(work)
            else:
                self._finish_clip(work, work.text())
        self._add_stats(steps=1, rows=rows)

    def _run_aligner(self) -> None:
        for work, text, end_s in self._aligner.run():
            self._finish_clip(work, text, end_s)

    def _finish_clip(self, work: WindowTask, text: WindowText, end_s: float | None = None) -> None:
        """Note the text of a stretch; queue the window for the speech that it leaves out, or finish it."""
        if work.finish_clip(text, end_s):
            self._add_stats(continued=1)
            self._requeue(work)
        else:
            self._resolve(work)

    def _requeue(self, work: WindowTask) -> None:
        """Queue a window for its next temperature, or for its next stretch."""
        with self._changed:
            self._pending[work] = claim = replace(self._pending[work], rows=work.rows, seconds=work.seconds)
            self._scheduler.add(claim, work, time.monotonic(), is_retry=True)

    def _resolve(self, work: WindowTask) -> None:
        self._failures = 0
        if self._untrack(work):
            text = work.result()
            tokens = sum(len(part.tokens) for part in text.parts)
            self._add_stats(windows=1, tokens=tokens, uncovered_s=total(work.uncovered) / SAMPLE_RATE)
            work.future.set_result(text)

    def _untrack(self, work: WindowTask) -> bool:
        """A window is no longer the engine's; whether it is still wanted. Who waits for a cancelled one is told."""
        with self._changed:
            pending = self._pending.pop(work, None)
        return pending is not None and work.future.set_running_or_notify_cancel()

    def _release_if_cancelled(self, work: WindowTask) -> bool:
        """Whether a window that was taken is no longer wanted; its rows are free again then."""
        if work.future.cancelled():
            self._release_rows(work)
            self._untrack(work)
        return work.future.cancelled()

    def _abort_cancelled(self) -> None:
        for attempt, work in list(self._decoding.items()):
            if self._release_if_cancelled(work):
                del self._decoding[attempt]
                self._decoder.abort(attempt)

    def _release_rows(self, work: WindowTask) -> None:
        with self._changed:
            self._scheduler.release(work)

    def _run_with_isolation(self, works: Sequence[WindowTask], act: Callable[[], None]) -> None:
        """Act on windows; when that fails, on each by itself, and what fails alone has failed."""
        try:
            act()
            return
        except Exception as error:
            logger.exception("%d windows failed together", len(works))
            # The traceback holds the windows' tensors, and memory may be what was wanting.
            failure = error.with_traceback(None)
        self._remove_tasks(works)
        if len(works) == 1:
            self._reject(works[0], failure)
            return
        for work in works:
            self._run_with_isolation([work], partial(self._run_isolated, work))

    def _remove_tasks(self, works: Sequence[WindowTask]) -> None:
        self._encoding = None
        self._aligner.waiting = [work for work in self._aligner.waiting if work not in works]
        for attempt in [attempt for attempt, work in self._decoding.items() if work in works]:
            del self._decoding[attempt]
            self._decoder.abort(attempt)

    def _run_isolated(self, work: WindowTask) -> None:
        """A window's whole way, as far as it has not come yet."""
        with self._changed:
            self._scheduler.discard(work)  # it may have been queued for another try before the others failed
        if not work.ended:
            self._finish_encoding(self._encoder.start([work]))
            while work in self._decoding.values():
                self._run_step()
        elif work in self._pending:
            self._aligner.add(work)
            self._run_aligner()

    def _reject(self, work: WindowTask, failure: Exception) -> None:
        self._failures += 1
        self._release_rows(work)
        if self._untrack(work):
            self._add_stats(failed=1)
            work.future.set_exception(failure)

    def _add_stats(self, **more: float) -> None:
        with self._changed:
            self._stats = replace(self._stats, **{name: getattr(self._stats, name) + n for name, n in more.items()})
