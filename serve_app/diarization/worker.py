"""One thread that does one thing at a time, whoever waits in person first."""

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
    """Nobody waits for the work any more."""


class Worker:
    """Does work in a thread of its own, and notices when that hangs.

    `begin` is called in the thread before all else. `watchdog_s`: `check_health` fails when a step takes longer.
    """

    def __init__(self, begin: Callable[[], None], watchdog_s: float) -> None:
        self._begin = begin
        self._watchdog_s = watchdog_s
        self._numbers = count()
        self._waiting: PriorityQueue[tuple[bool, int, Callable[[], None]]] = PriorityQueue()
        self._beat = math.inf  # when the thread last came on; it is not expected to while there is nothing to do
        self._thread = threading.Thread(target=self._run, name="diarizer", daemon=True)
        self._thread.start()

    async def submit(self, work: Callable[[Callable[[], None]], T], interactive: bool) -> T:
        """Run `work` in the thread and return its result. It calls its argument between steps, to be cancelled there.

        Interactive work goes before other.
        """
        future: Future[T] = Future()
        given_up = threading.Event()

        def heartbeat() -> None:
            if given_up.is_set():
                raise Cancelled
            self._beat = time.monotonic()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                heartbeat()
                future.set_result(work(heartbeat))
            except BaseException as error:
                future.set_exception(error)

        self._waiting.put((not interactive, next(self._numbers), run))
        try:
            return await asyncio.wrap_future(future)
        finally:
            given_up.set()

    def check_health(self) -> None:
        """Raise RuntimeError when nothing would be done any more: the thread has ended, or hangs."""
        if not self._thread.is_alive():
            raise RuntimeError("the diarizer's thread has ended")
        stuck_s = time.monotonic() - self._beat
        if stuck_s > self._watchdog_s:
            raise RuntimeError(f"the diarizer's thread has not come on for {stuck_s:.0f} s")

    def _run(self) -> None:
        self._begin()
        while True:
            self._beat = math.inf
            _, _, run = self._waiting.get()
            run()
