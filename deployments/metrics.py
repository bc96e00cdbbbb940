"""The metrics of the service as Ray's, which Ray exports to Prometheus."""

from typing import Any

from ray.serve import metrics as ray_metrics

from serve_app.observability.metrics import Counter, Gauge, Histogram


class RayMetrics:
    """A `Metrics` that records through Ray. Each metric is made in this process when it is first recorded."""

    def __init__(self) -> None:
        self._instruments: dict[str, Any] = {}

    def increment(self, counter: Counter, amount: float = 1.0, **labels: str) -> None:
        if counter.name not in self._instruments:
            self._instruments[counter.name] = ray_metrics.Counter(counter.name, counter.description, counter.labels)
        if amount:  # Ray refuses an increment by 0
            self._instruments[counter.name].inc(amount, labels)

    def set(self, gauge: Gauge, value: float, **labels: str) -> None:
        if gauge.name not in self._instruments:
            self._instruments[gauge.name] = ray_metrics.Gauge(gauge.name, gauge.description, gauge.labels)
        self._instruments[gauge.name].set(value, labels)

    def observe(self, histogram: Histogram, value: float, **labels: str) -> None:
        if histogram.name not in self._instruments:
            self._instruments[histogram.name] = ray_metrics.Histogram(
                histogram.name, histogram.description, list(histogram.buckets), histogram.labels
            )
        self._instruments[histogram.name].observe(value, labels)
