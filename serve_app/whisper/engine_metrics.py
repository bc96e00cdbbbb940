"""The counters of an engine as metrics."""

from serve_app.observability import metrics as defined
from serve_app.observability.metrics import Metrics
from serve_app.whisper.protocol import EngineStats


def record_engine_stats(metrics: Metrics, model: str, before: EngineStats, now: EngineStats) -> None:
    """Record what an engine has done between two readings of its counters, and its current windows."""
    metrics.increment(defined.WINDOWS, now.windows - before.windows, model=model, outcome="done")
    metrics.increment(defined.WINDOWS, now.failed - before.failed, model=model, outcome="failed")
    metrics.increment(defined.WINDOW_TOKENS, now.tokens - before.tokens, model=model)
    metrics.increment(defined.DECODING_ATTEMPTS, now.attempts - before.attempts, model=model)
    metrics.increment(defined.UNCOVERED_SECONDS, now.uncovered_s - before.uncovered_s, model=model)
    metrics.increment(defined.DECODER_STEPS, now.steps - before.steps, model=model)
    metrics.increment(defined.DECODER_ROWS, now.rows - before.rows, model=model)
    metrics.set(defined.WAITING_WINDOWS, now.waiting, model=model)
    metrics.set(defined.DECODING_WINDOWS, now.decoding, model=model)
