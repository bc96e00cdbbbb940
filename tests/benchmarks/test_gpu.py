"""The CUDA benchmark on a CPU, in small: every engine does the same work."""

from pathlib import Path

import pytest

from benchmarks import gpu
from benchmarks.gpu import MAX_TOKENS, run, text_lengths


def test_distribution_of_text_lengths() -> None:
    lengths = text_lengths(2000)
    assert sum(lengths) / len(lengths) == pytest.approx(97, abs=2)
    assert lengths[:10] == text_lengths(10)
    assert 4 <= min(lengths) < max(lengths) <= MAX_TOKENS


@pytest.mark.slow
def test_all_engines_generate_equal_numbers_of_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "text_lengths", lambda count: [5, 9, 7][:count])
    figures = run("tiny", "cpu", windows=3, rows=[2], repeats=1, folder=tmp_path)
    assert figures["tokens_per_window"] == 7
    assert {name: found["done"] for name, found in figures["tokens"].items()} == dict.fromkeys(
        ["ours", "generate, SDPA", "generate, static cache", "pipeline, 24 at a time", "pipeline, 96 at a time"], 21
    )
    assert all(found["real_time"] > 0 for found in figures["tokens"].values())
    assert set(figures["encoder"][2]) == {"ours", "transformers"}
