import re
from pathlib import Path

import pytest

from serve_app.observability import metrics
from serve_app.observability.metrics import Counter, Gauge, Histogram

DEFINED = [value for value in vars(metrics).values() if isinstance(value, Counter | Gauge | Histogram)]
DOCUMENT = (Path(__file__).parents[2] / "docs" / "observability.md").read_text()


def test_the_document_lists_every_metric() -> None:
    rows = re.findall(r"^\| `(stt_\w+)` \| (\w+) \| ([\w, ]+) \|", DOCUMENT, re.MULTILINE)
    listed = {name: (kind, tuple(labels.split(", "))) for name, kind, labels in rows}
    assert listed == {metric.name: (type(metric).__name__.lower(), metric.labels) for metric in DEFINED}


@pytest.mark.parametrize("metric", DEFINED, ids=lambda metric: metric.name)
def test_names_follow_prometheus(metric: Counter | Gauge | Histogram) -> None:
    assert re.fullmatch(r"stt_[a-z_]+", metric.name)
    assert metric.name.endswith("_total") == isinstance(metric, Counter)
    if isinstance(metric, Histogram):
        assert metric.name.endswith("_seconds")
        assert list(metric.buckets) == sorted(metric.buckets)
