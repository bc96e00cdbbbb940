"""Counters of the engine."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EngineStats:
    """Counters of an engine since it started, and the current number of its windows.

    `windows`: finished windows; `tokens`: theirs; `failed`: windows that ended in an error. `encoded`: windows that
    went through the encoder. `attempts`: decoding attempts. `remaining_clips`: clips that were decoded because a text
    left out speech of its window. `uncovered_s`: seconds of detected speech that have no text nevertheless. `steps`:
    decoder steps; `rows`: the rows they computed in total. `waiting`: windows queued now; `decoding`: windows that have
    rows now.
    """

    windows: int = 0
    failed: int = 0
    tokens: int = 0
    encoded: int = 0
    attempts: int = 0
    remaining_clips: int = 0
    uncovered_s: float = 0.0
    steps: int = 0
    rows: int = 0
    waiting: int = 0
    decoding: int = 0

    @property
    def mean_batch_size(self) -> float:
        """Mean number of rows per decoder step."""
        return self.rows / self.steps if self.steps else 0.0
