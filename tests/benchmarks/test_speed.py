"""The arithmetic of the benchmark, and our engine in its worker process."""

from itertools import pairwise
from pathlib import Path
from statistics import mean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import report
from benchmarks.convert import openai_name
from benchmarks.engines import TEMPERATURES, RunConfig, in_batches
from benchmarks.real_speech.recordings import Recording
from benchmarks.speed import BATCH_SIZES, build_cases, error_rate, interleave
from benchmarks.worker import ENGINES, Worker
from benchmarks.workloads import (
    WINDOW_S,
    Workload,
    digits_workload,
    fixed_length_workload,
    mixed_traffic_lengths,
    pack_windows,
    real_speech_workload,
)
from serve_app.audio import SAMPLE_RATE

NANO = Path(__file__).parents[2] / "serve_app" / "models" / "whisper-nano"


def case(label: str, engine: str, tokens: list[int], seconds: list[float]) -> report.Case:
    return {
        "label": label,
        "engine": engine,
        "batch_size": 16,
        "audio_s": 60.0,
        "windows": 2,
        "tokens": tokens,
        "wer": None,
        "seconds": seconds,
    }


def test_interleave() -> None:
    assert interleave(["a", "b", "c"], 2) == ["a", "b", "c", "a", "b", "c"]


def test_build_cases() -> None:
    result = build_cases(("base", "nano", "slots", "batches"), ENGINES)
    assert {case.engine for case in result["base"]} == {case.engine for case in result["nano"]} == set(ENGINES)
    assert [case.config.static for case in result["slots"]] == [False, True]
    assert [case.config.batch_size for case in result["batches nano"]] == list(BATCH_SIZES)
    for cases in result.values():
        assert len({case.label for case in cases}) == len(cases)


@given(st.lists(st.integers()), st.integers(1, 9))
def test_in_batches(items: list[int], size: int) -> None:
    result = list(in_batches(items, size))
    assert [item for group in result for item in group] == items
    assert all(len(group) == size for group in result[:-1])


def test_speed_is_the_median_of_the_passes() -> None:
    measured = case("x", "ours", [30, 30], [3.0, 1.0, 2.0])
    assert report.speed(measured) == 30.0
    assert report.tokens_per_second(measured) == 30.0


def test_table() -> None:
    table = report.table([case("slow", "openai", [30, 30], [6.0]), case("fast", "ours", [30, 30], [3.0, 1.0, 2.0])])
    first, second = table.splitlines()[2:4]
    assert first.startswith("| fast | 16 | 1 min | 3 | 30.0 (20.0–60.0) | 1.00 | 30 | 30.0 |")
    assert second.startswith("| slow |")
    assert "*" not in table


def test_engines_with_fewer_tokens_are_not_compared() -> None:
    ours = case("ours", "ours", [50, 50], [2.0])
    equal, brief = case("equal", "ct2", [49, 50], [4.0]), case("brief", "ct2-int8", [40, 50], [1.0])
    loop = case("loop", "tutorial", [50, 50], [20.0])
    result = report.ratios({"parts": {"nano": [ours, equal, brief, loop]}})
    assert result == {
        "nano: ours to the fastest other engine (equal)": 2.0,
        "nano: ours to the pipeline 30 s at a time": 10.0,
    }
    assert "45.0 *" in report.table([ours, equal, brief])


def test_slots_are_compared_by_tokens_per_second() -> None:
    slots, static = case("slots", "ours", [90], [2.0]), case("static batches", "ours", [90], [3.0])
    assert report.ratios({"parts": {"slots": [slots, static]}}) == {
        "slots to static batches, tokens a second": pytest.approx(1.5)
    }


def test_mixed_traffic_lengths() -> None:
    lengths = mixed_traffic_lengths(4000)
    assert lengths == mixed_traffic_lengths(4000)
    assert min(lengths) == 4
    assert mean(lengths) == pytest.approx((97 + 30) / 2, abs=2)  # 28, more for the clipping at 4


@given(st.lists(st.tuples(st.floats(0.1, 3), st.floats(1, 20)), min_size=1, max_size=30))
def test_pack_windows(steps: list[tuple[float, float]]) -> None:
    """For any utterances and pauses, every window has at most 30 s and only whole utterances."""
    spans, now = [], 0.0
    for pause, length in steps:
        spans.append((now + pause, now + pause + length))
        now += pause + length
    ends, counts = pack_windows(spans, now + 0.1)
    assert counts[-1] == len(spans)
    assert ends[-1] == now + 0.1
    assert all(right - left <= WINDOW_S for left, right in pairwise((0.0, *ends)))
    for (left, right), (first, last) in zip(pairwise((0.0, *ends)), pairwise((0, *counts)), strict=True):
        assert all(left <= start and end <= right for start, end in spans[first:last])
        assert first < last


def test_workload_round_trip(tmp_path: Path) -> None:
    workload = Workload(np.arange(4 * SAMPLE_RATE, dtype=np.int16), (1.5, 4.0), (3, 5), ("one", "two three"), "de")
    workload.save(tmp_path / "work.npz")
    loaded = Workload.load(tmp_path / "work.npz")
    assert (loaded.ends, loaded.lengths, loaded.truth, loaded.language) == (
        workload.ends,
        workload.lengths,
        workload.truth,
        "de",
    )
    assert [len(window) for window in loaded.windows] == [24_000, 40_000]
    assert loaded.first(1).duration == 1.5
    assert np.array_equal(loaded.windows[1], workload.pcm[24_000:])


def test_fixed_length_windows_contain_sound() -> None:
    workload = fixed_length_workload((97, 97))
    assert [len(window) / SAMPLE_RATE for window in workload.windows] == [WINDOW_S, WINDOW_S]
    assert all(np.abs(window).max() > 1000 for window in workload.windows)


def test_missing_synthesisers_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="apt-get install espeak-ng flite festival"):
        digits_workload(minutes=1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.encoder.layers.0.self_attn.q_proj.weight", "encoder.blocks.0.attn.query.weight"),
        ("model.decoder.layers.2.encoder_attn_layer_norm.bias", "decoder.blocks.2.cross_attn_ln.bias"),
        ("model.decoder.layers.2.encoder_attn.out_proj.bias", "decoder.blocks.2.cross_attn.out.bias"),
        ("model.encoder.layers.1.final_layer_norm.weight", "encoder.blocks.1.mlp_ln.weight"),
        ("model.encoder.layer_norm.weight", "encoder.ln_post.weight"),
        ("model.decoder.embed_positions.weight", "decoder.positional_embedding"),
    ],
)
def test_openai_weight_names(name: str, expected: str) -> None:
    assert openai_name(name) == expected


@pytest.mark.slow
def test_worker_runs_our_engine(tmp_path: Path) -> None:
    """Forced windows yield exactly the requested tokens; others their text."""
    workload = fixed_length_workload((5, 9, 7))
    workload.save(tmp_path / "forced.npz")
    Workload(workload.pcm[: 3 * SAMPLE_RATE], (3.0,)).save(tmp_path / "free.npz")
    worker = Worker("ours", NANO, 1, tmp_path / "log")
    try:
        assert worker.run(tmp_path / "forced.npz", config=RunConfig(2)).tokens == (5, 9, 7)
        assert worker.run(tmp_path / "forced.npz", windows=2, config=RunConfig(1, static=True)).tokens == (5, 9)
        free = worker.run(tmp_path / "free.npz")
        assert len(free.tokens) == 1
        assert free.text.split()
        assert free.seconds > 0
        with pytest.raises(RuntimeError, match="ours died"):
            worker.run(tmp_path / "nowhere.npz")
    finally:
        worker.close()


def test_real_speech_cases() -> None:
    result = build_cases(("real",), ENGINES)
    assert {name: {case.config.beam_size for case in cases} for name, cases in result.items()} == {
        "real": {1},
        "real beam 5": {5},
    }
    assert all(case.config.temperatures == TEMPERATURES for cases in result.values() for case in cases)
    assert RunConfig().temperatures == (0.0,)


def test_real_speech_workload(tmp_path: Path) -> None:
    path = NANO.parents[2] / "tests" / "data" / "es.wav"
    workload = real_speech_workload([Recording(path, "es", "uno dos"), Recording(path, "es", "tres")], minutes=1)
    assert workload.language == "es"
    assert 60 <= workload.duration == pytest.approx(len(workload.pcm) / SAMPLE_RATE, abs=0.01)
    assert all(right - left <= WINDOW_S for left, right in workload.window_bounds)
    assert len(workload.truth) == len(workload.ends) > 1
    texts = " ".join(workload.truth).split()
    assert texts.count("uno") == texts.count("dos") >= texts.count("tres") - 1 > 3


def test_error_rate() -> None:
    pytest.importorskip("whisper", reason="no normaliser without openai-whisper (the extra bench)")
    assert error_rate("real", "Mr. Smith's twenty dogs", "mister smith's 20 dogs") == 0
    assert error_rate("nano", "one two", "one too") == 0.5
