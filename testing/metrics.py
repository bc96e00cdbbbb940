"""Metrics that remember what was recorded."""

from collections import Counter as Sums
from collections import defaultdict

from serve_app.observability.metrics import Counter, Gauge, Histogram

Labels = frozenset[tuple[str, str]]


class RecordedMetrics:
    """A `Metrics` whose values tests read. It refuses labels that are not the metric's own, like Ray."""

    def __init__(self) -> None:
        self.sums: Sums[tuple[str, Labels]] = Sums()
        self.values: dict[tuple[str, Labels], float] = {}
        self.observations: defaultdict[tuple[str, Labels], list[float]] = defaultdict(list)

    def increment(self, counter: Counter, amount: float = 1.0, **labels: str) -> None:
        self.sums[_key(counter, labels)] += amount  # type: ignore[assignment]

    def set(self, gauge: Gauge, value: float, **labels: str) -> None:
        self.values[_key(gauge, labels)] = value

    def observe(self, histogram: Histogram, value: float, **labels: str) -> None:
        self.observations[_key(histogram, labels)].append(value)

    def total(self, counter: Counter, **labels: str) -> float:
        """Return the sum of all increments with at least these labels."""
        wanted = labels.items()
        return sum(n for (name, given), n in self.sums.items() if name == counter.name and wanted <= given)

    def count(self, histogram: Histogram, **labels: str) -> int:
        """Return the number of observations with at least these labels."""
        wanted = labels.items()
        return sum(
            len(n) for (name, given), n in self.observations.items() if name == histogram.name and wanted <= given
        )


def _key(metric: Counter | Gauge | Histogram, labels: dict[str, str]) -> tuple[str, Labels]:
    assert set(labels) == set(metric.labels), f"{metric.name} has labels {metric.labels}, not {tuple(labels)}"
    return metric.name, frozenset(labels.items())
