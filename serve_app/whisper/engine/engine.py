"""The engine: one thread that decodes windows of many jobs by continuous batching."""

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from serve_app.audio import SAMPLE_RATE
from serve_app.audio.spans import Span, total_length
from serve_app.errors import InvalidRequest, Unavailable
from serve_app.models import LONGEST_WINDOW_S
from serve_app.schemas.request import TranscriptionOptions
from serve_app.whisper.decoding.decoder import Decoder, SequenceState
from serve_app.whisper.engine.aligner_stage import AlignerStage
from serve_app.whisper.engine.batch import transcribe_windows
from serve_app.whisper.engine.encoder_stage import EncoderStage, EncodingBatch
from serve_app.whisper.engine.scheduler import Batching, Scheduler, WindowRequest
from serve_app.whisper.engine.window_task import WindowTask, prompt_tokens
from serve_app.whisper.model.whisper_model import WhisperModel
from serve_app.whisper.protocol import EngineStats, WindowBatch
from serve_app.whisper.window_text import WindowText

MAX_FAILURES = 8
"""Consecutive failed windows after which the engine is unhealthy: so many are not caused by the windows' content."""

logger = logging.getLogger(__name__)


class Engine:
    """Decodes windows of many jobs by continuous batching: a `TranscriptionEngine`. Thread-safe.

    `watchdog_s`: the engine is unhealthy when no step has ended for this long; see `check_health`.
    """

    def __init__(self, model: WhisperModel, batching: Batching | None = None, watchdog_s: float = 60.0) -> None:
        self._model = model
        self._watchdog_s = watchdog_s
        self._batching = batching or Batching()
        self._scheduler: Scheduler[WindowTask] = Scheduler()
        self._decoder = Decoder(model, self._batching.max_batch_size)
        self._encoder_stage = EncoderStage(model)
        self._aligner_stage = AlignerStage(model)
        self._encoding_batch: EncodingBatch | None = None
        self._decoding_tasks: dict[SequenceState, WindowTask] = {}
        self._requests: dict[WindowTask, WindowRequest] = {}
        self._condition = threading.Condition()
        self._stats = EngineStats()
        self._closed = False
        self._consecutive_failures = 0
        self._bulk_blocked_until = 0.0
        self._last_heartbeat = math.inf  # when the thread last began a cycle; infinite while it has nothing to do
        self._thread = threading.Thread(target=self._run, name="whisper-engine", daemon=True)
        self._thread.start()

    async def transcribe(self, batch: WindowBatch) -> list[WindowText]:
        """Return the text of each window of a batch, in order. Cancelling aborts its windows; see `submit`."""
        return await transcribe_windows(self, batch)

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
        """Queue a window of a job: 16 kHz mono int16, at most 30 s.

        `previous`: tokens of the text before the window. `speech`: detected speech in samples of the window, in order,
        null if not known; speech that the text leaves out is decoded separately. Interactive windows have priority.
        Cancelling the future removes the window from the queue, or frees its rows.

        Raises InvalidRequest for options that the model does not support, ValueError for `pcm` of another format, and
        Unavailable after `close`.
        """
        self._model.card.validate_options(options)
        if pcm.dtype != np.int16 or pcm.ndim != 1 or not 0 < len(pcm) <= LONGEST_WINDOW_S * SAMPLE_RATE:
            raise ValueError(
                f"a window must be mono int16 of at most {LONGEST_WINDOW_S:g} s, not {pcm.dtype} of shape {pcm.shape}"
            )
        max_rows = self._batching.max_batch_size
        if options.beam_size is None:
            options = options.model_copy(update={"beam_size": min(self._model.card.beam_size, max_rows)})
        for name in ("beam_size", "best_of"):
            if getattr(options, name) > max_rows:
                raise InvalidRequest(f"{name} must be at most {max_rows}, the number of rows of the engine", name)
        spans = None if speech is None else tuple(speech)
        task = WindowTask(pcm, options, prompt_tokens(self._model, options), tuple(previous), self._model, spans)
        request = WindowRequest(job, task.seconds, task.rows, interactive, options.batch_size)
        with self._condition:
            if self._closed:
                raise Unavailable("the engine is closed")
            self._requests[task] = request
            self._scheduler.add(request, task, time.monotonic())
            self._condition.notify()
        task.future.add_done_callback(lambda future: self._cancel_queued(task) if future.cancelled() else None)
        return task.future

    def reconfigure(self, batching: Batching) -> None:
        """Change the batching options. A new number of rows takes effect when no window is being decoded."""
        with self._condition:
            self._batching = batching
            self._condition.notify()

    def tokenize(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a text, for use as the text before a window."""
        return self._model.tokenize(text)

    @property
    def batching(self) -> Batching:
        return self._batching

    def check_health(self) -> None:
        """Raise RuntimeError if the engine is unhealthy: its thread has ended or hangs, or every window fails."""
        if not self._thread.is_alive():
            raise RuntimeError("the engine thread has ended")
        idle_s = time.monotonic() - self._last_heartbeat
        if idle_s > self._watchdog_s:
            raise RuntimeError(f"the engine thread has made no progress for {idle_s:.0f} s: the device hangs")
        if self._consecutive_failures >= MAX_FAILURES:
            raise RuntimeError(f"the last {self._consecutive_failures} windows all failed: the device is unhealthy")

    def stats(self) -> EngineStats:
        """Return the current counters."""
        with self._condition:
            return replace(self._stats, waiting=len(self._scheduler), decoding=len(self._decoding_tasks))

    def close(self) -> None:
        """Cancel all unfinished windows and stop the thread."""
        with self._condition:
            self._closed = True
            self._condition.notify()
        self._thread.join()
        for task in list(self._requests):
            task.future.cancel()
            self._untrack(task)

    def _cancel_queued(self, task: WindowTask) -> None:
        with self._condition:
            was_waiting = self._scheduler.discard(task)
            self._condition.notify()
        if was_waiting:  # otherwise the thread notices the cancellation
            self._untrack(task)

    def _run(self) -> None:
        torch.set_num_threads(self._model.threads)
        while (scheduled := self._schedule()) is not None:
            self._last_heartbeat = time.monotonic()
            if scheduled:
                self._run_with_isolation(scheduled, partial(self._start_encoding, scheduled))
            if self._encoding_batch and (self._encoding_batch.is_ready() or not self._decoder.has_work):
                encoding, self._encoding_batch = self._encoding_batch, None
                self._run_with_isolation(encoding.tasks, partial(self._finish_encoding, encoding))
            self._abort_cancelled()
            if self._decoder.has_work:
                self._run_with_isolation(list(self._decoding_tasks.values()), self._run_step)
            if self._aligner_stage.is_due(idle=not self._decoder.has_work):
                self._run_with_isolation(self._aligner_stage.waiting, self._run_aligner)

    def _schedule(self) -> list[WindowTask] | None:
        """Wait for work. Return the windows to encode next, which may be none; null when the engine is closed."""
        with self._condition:
            while not self._closed:
                if self._batching.max_batch_size != self._decoder.rows and not self._decoder.has_work:
                    self._decoder = Decoder(self._model, self._batching.max_batch_size)
                scheduled = []
                # One encoder batch at a time, so that each batch has the windows that are most urgent then.
                if (
                    not self._encoding_batch
                    and self._batching.max_batch_size == self._decoder.rows
                    and self._has_free_rows
                ):
                    now = time.monotonic()
                    # While an interactive window is decoded, encoding bulk windows takes at most half of the time.
                    interactive_only = now < self._bulk_blocked_until and self._scheduler.is_serving_interactive
                    scheduled = self._scheduler.schedule(
                        self._batching, now, self._encoder_stage.batch_size, interactive_only=interactive_only
                    )
                if scheduled or self._encoding_batch or self._decoder.has_work or self._aligner_stage.waiting:
                    return scheduled
                self._last_heartbeat = math.inf
                self._condition.wait()
        return None

    @property
    def _has_free_rows(self) -> bool:
        """Return whether enough rows are free for a batch: a device encodes single windows at half the speed."""
        return not self._decoder.has_work or self._decoder.free_rows >= min(
            self._encoder_stage.batch_size, self._decoder.rows // 8
        )

    def _start_encoding(self, tasks: Sequence[WindowTask]) -> None:
        self._encoding_batch = self._encoder_stage.start(tasks)
        self._add_stats(encoded=sum(1 for task in tasks if not task.attempts))

    def _finish_encoding(self, encoding: EncodingBatch) -> None:
        self._start_decoding(encoding)
        now = time.monotonic()
        self._bulk_blocked_until = now + (now - encoding.started)

    def _start_decoding(self, encoding: EncodingBatch) -> None:
        tasks = [task for task in encoding.join() if not self._release_if_cancelled(task)]
        if not tasks:
            return
        requests = [task.decode_request() for task in tasks]
        sequences = self._decoder.add_sequences(
            torch.cat([task.states for task in tasks if task.states is not None]), requests
        )
        self._decoding_tasks.update(zip(sequences, tasks, strict=True))
        self._add_stats(attempts=len(tasks))

    def _run_step(self) -> None:
        rows = self._decoder.rows - self._decoder.free_rows
        for sequence in self._decoder.step():
            task = self._decoding_tasks.pop(sequence)
            assert sequence.result is not None
            is_finished = task.add_result(sequence.result)
            self._release_rows(task)
            if not is_finished:
                self._requeue(task)
            elif task.best_attempt.tokens and (task.options.timestamps == "word" or task.has_unknown_end):
                self._aligner_stage.add(task)
            else:
                self._finish_clip(task, task.clip_text())
        self._add_stats(steps=1, rows=rows)

    def _run_aligner(self) -> None:
        for task, text, end_s in self._aligner_stage.run():
            self._finish_clip(task, text, end_s)

    def _finish_clip(self, task: WindowTask, text: WindowText, end_s: float | None = None) -> None:
        """Record the text of a clip. Then queue the window again for its next clip, or resolve it."""
        if task.finish_clip(text, end_s):
            self._add_stats(remaining_clips=1)
            self._requeue(task)
        else:
            self._resolve(task)

    def _requeue(self, task: WindowTask) -> None:
        """Queue a window again, for its next temperature or its next clip."""
        with self._condition:
            self._requests[task] = request = replace(self._requests[task], rows=task.rows, seconds=task.seconds)
            self._scheduler.add(request, task, time.monotonic(), is_retry=True)

    def _resolve(self, task: WindowTask) -> None:
        self._consecutive_failures = 0
        if self._untrack(task):
            text = task.result()
            tokens = sum(len(part.tokens) for part in text.parts)
            self._add_stats(windows=1, tokens=tokens, uncovered_s=total_length(task.uncovered) / SAMPLE_RATE)
            task.future.set_result(text)

    def _untrack(self, task: WindowTask) -> bool:
        """Remove a window from the engine. Return whether its future still needs a result."""
        with self._condition:
            pending = self._requests.pop(task, None)
        return pending is not None and task.future.set_running_or_notify_cancel()

    def _release_if_cancelled(self, task: WindowTask) -> bool:
        """Free the rows of a window if it was cancelled. Return whether it was."""
        if task.future.cancelled():
            self._release_rows(task)
            self._untrack(task)
        return task.future.cancelled()

    def _abort_cancelled(self) -> None:
        for sequence, task in list(self._decoding_tasks.items()):
            if self._release_if_cancelled(task):
                del self._decoding_tasks[sequence]
                self._decoder.abort(sequence)

    def _release_rows(self, task: WindowTask) -> None:
        with self._condition:
            self._scheduler.release(task)

    def _run_with_isolation(self, tasks: Sequence[WindowTask], run: Callable[[], None]) -> None:
        """Call `run`, a stage of these windows. If it fails, run each window alone, and reject those that fail."""
        try:
            run()
            return
        except Exception as error:
            logger.exception("%d windows failed together", len(tasks))
            # The traceback references the windows' tensors, and the error may be that memory ran out.
            failure = error.with_traceback(None)
        self._remove_tasks(tasks)
        if len(tasks) == 1:
            self._reject(tasks[0], failure)
            return
        for task in tasks:
            self._run_with_isolation([task], partial(self._run_isolated, task))

    def _remove_tasks(self, tasks: Sequence[WindowTask]) -> None:
        self._encoding_batch = None
        self._aligner_stage.waiting = [task for task in self._aligner_stage.waiting if task not in tasks]
        for sequence in [sequence for sequence, task in self._decoding_tasks.items() if task in tasks]:
            del self._decoding_tasks[sequence]
            self._decoder.abort(sequence)

    def _run_isolated(self, task: WindowTask) -> None:
        """Run the remaining stages of a window by itself."""
        with self._condition:
            self._scheduler.discard(task)  # it may have been queued for its next attempt before the others failed
        if not task.is_finished:
            self._finish_encoding(self._encoder_stage.start([task]))
            while task in self._decoding_tasks.values():
                self._run_step()
        elif task in self._requests:
            self._aligner_stage.add(task)
            self._run_aligner()

    def _reject(self, task: WindowTask, failure: Exception) -> None:
        self._consecutive_failures += 1
        self._release_rows(task)
        if self._untrack(task):
            self._add_stats(failed=1)
            task.future.set_exception(failure)

    def _add_stats(self, **increments: float) -> None:
        with self._condition:
            self._stats = replace(
                self._stats, **{name: getattr(self._stats, name) + n for name, n in increments.items()}
            )
