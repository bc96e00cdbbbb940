"""Windows and names of jobs for tests of the scheduler."""

from collections.abc import Iterable
from dataclasses import dataclass

from serve_app.whisper.engine.scheduler import Batching, Scheduler, WindowRequest


@dataclass(frozen=True, eq=False)
class Window:
    request: WindowRequest


def queue_windows(
    scheduler: Scheduler[Window], request: WindowRequest, count: int = 1, now: float = 0.0
) -> list[Window]:
    windows = [Window(request) for _ in range(count)]
    for window in windows:
        scheduler.add(request, window, now)
    return windows


def job_names(windows: Iterable[Window]) -> list[str]:
    return [window.request.job for window in windows]


FOUR_ROWS = Batching(max_batch_size=4)
