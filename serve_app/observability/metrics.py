"""The metrics of the service, and the interface through which they are recorded.

To add a metric: define it here, and record it where the event happens, with the `Metrics` of that part. Names and units
follow Prometheus; Ray exports each with the prefix `ray_`, and with labels of its own for application, deployment and
replica.
"""

from dataclasses import dataclass
from typing import Protocol

LATENCY_BUCKETS_S = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
"""Upper bounds of the buckets of durations, in seconds: from a status request to a recording of hours."""


@dataclass(frozen=True)
class Counter:
    """A sum that only grows."""

    name: str
    description: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Gauge:
    """A value that goes up and down."""

    name: str
    description: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Histogram:
    """A distribution. `buckets`: the upper bounds, ascending."""

    name: str
    description: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = LATENCY_BUCKETS_S


class Metrics(Protocol):
    """Records values. `labels` are exactly those of the metric's definition."""

    def increment(self, counter: Counter, amount: float = 1.0, **labels: str) -> None: ...
    def set(self, gauge: Gauge, value: float, **labels: str) -> None: ...
    def observe(self, histogram: Histogram, value: float, **labels: str) -> None: ...


class NoMetrics:
    """Records nothing: for tests and for programs without Ray."""

    def increment(self, counter: Counter, amount: float = 1.0, **labels: str) -> None: ...
    def set(self, gauge: Gauge, value: float, **labels: str) -> None: ...
    def observe(self, histogram: Histogram, value: float, **labels: str) -> None: ...


HTTP_REQUESTS = Counter(
    "stt_http_requests_total",
    "HTTP requests. `route` is the path's template; empty, like `front`, for paths that do not exist.",
    ("front", "route", "method", "status"),
)
HTTP_REQUEST_SECONDS = Histogram(
    "stt_http_request_seconds", "Seconds from an HTTP request's start to its response's end.", ("front", "route")
)
AUDIO_SECONDS = Counter("stt_audio_seconds_total", "Seconds of audio that were transcribed.", ("model",))
STAGE_SECONDS = Histogram(
    "stt_stage_seconds", "Seconds that a recording spent in a stage: fetch, transcribe, diarize.", ("model", "stage")
)
WINDOWS = Counter(
    "stt_windows_total", "Windows that an engine finished. `outcome`: done, failed.", ("model", "outcome")
)
WINDOW_TOKENS = Counter("stt_tokens_total", "Text tokens of finished windows.", ("model",))
DECODING_ATTEMPTS = Counter("stt_decoding_attempts_total", "Decoding attempts, retries included.", ("model",))
UNCOVERED_SECONDS = Counter(
    "stt_uncovered_speech_seconds_total", "Seconds of detected speech that got no text.", ("model",)
)
DECODER_STEPS = Counter("stt_decoder_steps_total", "Decoder steps.", ("model",))
DECODER_ROWS = Counter(
    "stt_decoder_rows_total", "Rows that decoder steps computed; by steps, the mean batch size.", ("model",)
)
WAITING_WINDOWS = Gauge("stt_waiting_windows", "Windows that wait for rows of an engine.", ("model",))
DECODING_WINDOWS = Gauge("stt_decoding_windows", "Windows that have rows of an engine.", ("model",))
JOBS_ENDED = Counter("stt_jobs_ended_total", "Jobs that ended. `mode`: async, sync.", ("mode", "state"))
WEBHOOK_ATTEMPTS = Counter(
    "stt_webhook_attempts_total", "Attempts to deliver a webhook. `outcome`: delivered, retried, failed.", ("outcome",)
)
