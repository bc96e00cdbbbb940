"""Single-threaded executor; interactive requests first."""

import asyncio
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from itertools import count
from queue import PriorityQueue
from typing import TypeVar

T = TypeVar("T")


class Cancelled(Exception):
    """The caller has cancelled the work."""


class Worker:
    """Runs work in one thread, with a watchdog.

    `begin` is called in the thread first. `check_health` raises when a step takes longer than `watchdog_s`.
    """

    def __init__(self, begin: Callable[[], None], watchdog_s: float) -> None:
        self._begin = begin
        self._watchdog_s = watchdog_s
        self._sequence = count()
        self._queue: PriorityQueue[tuple[bool, int, Callable[[], None]]] = PriorityQueue()
        self._last_heartbeat = math.inf  # infinite while the thread is idle
        self._thread = threading.Thread(target=self._run, name="diarizer", daemon=True)
        self._thread.start()

    async def submit(self, work: Callable[[Callable[[], None]], T], interactive: bool) -> T:
        """Run `work` in the thread and return its result.

        `work` calls its argument between steps, which raises when cancelled. Interactive work goes first.
        """
        future: Future[T] = Future()
        cancelled = threading.Event()

        def heartbeat() -> None:
            if cancelled.is_set():
                raise Cancelled
            self._last_heartbeat = time.monotonic()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                heartbeat()
                future.set_result(work(heartbeat))
            except BaseException as error:
                future.set_exception(error)

        self._queue.put((not interactive, next(self._sequence), run))
        try:
            return await asyncio.wrap_future(future)
        finally:
            cancelled.set()

    def check_health(self) -> None:
        """Raise RuntimeError if the thread has ended or hangs."""
        if not self._thread.is_alive():
            raise RuntimeError("the diarizer's thread has ended")
        stuck_s = time.monotonic() - self._last_heartbeat
        if stuck_s > self._watchdog_s:
            raise RuntimeError(f"the diarizer's thread has made no progress for {stuck_s:.0f} s")

    def _run(self) -> None:
        self._begin()
        while True:
            self._last_heartbeat = math.inf
            _, _, run = self._queue.get()
            run()
