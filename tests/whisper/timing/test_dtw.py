"""Token times, compared with transformers' `_extract_token_timestamps` and `_dynamic_time_warping`."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from torch import Tensor
from transformers import WhisperForConditionalGeneration, WhisperProcessor
from transformers.generation.utils import GenerateEncoderDecoderOutput
from transformers.models.whisper.generation_whisper import (
    WhisperGenerationMixin,
    _dynamic_time_warping,
    _median_filter,
)

from serve_app.audio import SAMPLE_RATE
from serve_app.models import model_source
from serve_app.whisper.model.whisper_model import WhisperModel
from serve_app.whisper.timing.dtw import median_filter, row_starts, token_ends
from tests.whisper.reference import reference

PREFIX = 3
"""`<|startoftranscript|>`, language, task."""
POSITION = 0.02 + 1e-6
"""Medians repeat, paths tie, and transformers adds up in float32: one position of 0.02 s may differ."""


@pytest.fixture(scope="module")
def network(nano: WhisperModel) -> WhisperForConditionalGeneration:
    return reference(nano, "eager")


@pytest.fixture(scope="module")
def processor() -> WhisperProcessor:
    return WhisperProcessor.from_pretrained(model_source("whisper-nano"))


@pytest.fixture(scope="module")
def spoken(
    network: WhisperForConditionalGeneration,
    processor: WhisperProcessor,
    windows: dict[str, NDArray[np.int16]],
    transcripts: dict[str, tuple[str, str]],
) -> dict[str, tuple[Tensor, list[float]]]:
    """Return, by recording, the weights of the alignment heads and the times for the tokens of generate()."""
    return {name: _aligned(network, processor, windows[name], transcripts[name][0]) for name in windows}


@torch.inference_mode()
def _aligned(
    network: WhisperForConditionalGeneration, processor: WhisperProcessor, pcm: NDArray[np.int16], language: str
) -> tuple[Tensor, list[float]]:
    inputs = processor.feature_extractor(
        pcm / 32768, sampling_rate=SAMPLE_RATE, return_tensors="pt", return_attention_mask=True
    )
    generation = network.generation_config
    answer = network.generate(
        inputs.input_features,
        attention_mask=inputs.attention_mask,
        language=language,
        task="transcribe",
        return_timestamps=True,
        return_token_timestamps=True,
    )
    tokens = [token for token in answer["sequences"][0].tolist() if token != generation.eos_token_id]
    prefix = [
        generation.decoder_start_token_id,
        generation.lang_to_id[f"<|{language}|>"],
        generation.task_to_id["transcribe"],
    ]
    decoded = network(
        input_features=inputs.input_features, decoder_input_ids=torch.tensor([prefix + tokens]), output_attentions=True
    )
    weights = torch.stack([decoded.cross_attentions[layer][0, head] for layer, head in generation.alignment_heads])
    frames = int(inputs.attention_mask.sum())
    return weights[..., : frames // 2], answer["token_timestamps"][0, : len(tokens)].tolist()


def _expected(weights: Tensor, filter_width: int) -> NDArray[np.float32]:
    """transformers' times for the generated tokens of `(heads, rows, positions)`."""
    heads, rows, positions = weights.shape
    times = WhisperGenerationMixin._extract_token_timestamps(
        SimpleNamespace(config=SimpleNamespace(decoder_layers=1, median_filter_width=filter_width)),
        GenerateEncoderDecoderOutput(sequences=torch.zeros(1, rows + 1), cross_attentions=((weights[None],),)),
        alignment_heads=[(0, head) for head in range(heads)],
        num_frames=torch.tensor([2 * positions]),
        num_input_ids=PREFIX,
    )
    return times[0, PREFIX:-1].numpy()  # the last is for the end token, which no row is about


def test_token_ends_equal_transformers(spoken: dict[str, tuple[Tensor, list[float]]]) -> None:
    ends = token_ends([weights for weights, _ in spoken.values()], [PREFIX] * len(spoken), filter_width=3)
    for (name, (_, expected)), found in zip(spoken.items(), ends, strict=True):
        assert len(expected) > 6, name
        np.testing.assert_allclose(found, expected, atol=POSITION, err_msg=name)


@pytest.mark.parametrize("filter_width", [1, 3, 7])
def test_token_ends_of_random_weights_in_one_batch(filter_width: int) -> None:
    generator = torch.Generator().manual_seed(filter_width)
    weights = [
        torch.randn(heads, PREFIX + tokens, positions, generator=generator).mul(3).softmax(-1)
        for heads, tokens, positions in [(1, 9, 60), (6, 1, 40), (10, 30, 200), (2, 12, 5), (3, 2, 3), (4, 20, 150)]
    ]
    ends = token_ends(weights, [PREFIX] * len(weights), filter_width)
    for window, found in zip(weights, ends, strict=True):
        np.testing.assert_allclose(found, _expected(window, filter_width), atol=POSITION)


def test_windows_do_not_affect_each_other(spoken: dict[str, tuple[Tensor, list[float]]]) -> None:
    weights = [window for window, _ in spoken.values()]
    together = token_ends(weights, [PREFIX] * len(weights), 3)
    for window, ends in zip(weights, together, strict=True):
        np.testing.assert_array_equal(token_ends([window], [PREFIX], 3)[0], ends)


def test_half_precision_changes_little(spoken: dict[str, tuple[Tensor, list[float]]]) -> None:
    weights = [window for window, _ in spoken.values()]
    exact = token_ends(weights, [PREFIX] * len(weights), 3)
    rounded = token_ends([window.half() for window in weights], [PREFIX] * len(weights), 3)
    for left, right in zip(exact, rounded, strict=True):
        np.testing.assert_allclose(left, right, atol=POSITION)


def test_no_tokens_have_no_times() -> None:
    empty, some = token_ends([torch.rand(2, PREFIX, 50), torch.rand(2, PREFIX + 4, 50)], [PREFIX, PREFIX], 7)
    assert empty.shape == (0,)
    assert some.shape == (4,)
    assert token_ends([], [], 7) == []


def test_audio_shorter_than_a_position() -> None:
    nothing, some = token_ends([torch.rand(2, PREFIX + 2, 0), torch.rand(2, PREFIX + 4, 50)], [PREFIX, PREFIX], 7)
    assert nothing.tolist() == [0.0, 0.0]
    assert some[-1] > 0


def test_equal_rows() -> None:
    weights = torch.rand(2, PREFIX + 5, 40)
    weights[:, :, 7] = 0.25
    ends = token_ends([weights], [PREFIX], 3)[0]
    assert np.isfinite(ends).all()
    assert (np.diff(ends) >= 0).all()


@settings(deadline=None)
@given(
    arrays(
        np.float32,
        st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 12)),
        elements=st.floats(-9, 9, width=32),
    ),
    st.sampled_from([1, 3, 5, 7]),
)
def test_median_filter(values: NDArray[np.float32], width: int) -> None:
    tensor = torch.from_numpy(values)
    assert torch.equal(median_filter(tensor, width), _median_filter(tensor, width))


@pytest.mark.parametrize("width", [-1, 0, 4])
def test_median_filter_rejects_even_widths(width: int) -> None:
    with pytest.raises(ValueError, match=f"median_filter_width must be odd and positive, not {width}"):
        median_filter(torch.zeros(1, 1, 9), width)


def _transformers_starts(costs: NDArray[np.float64]) -> NDArray[np.intp]:
    rows, columns = _dynamic_time_warping(costs)
    return columns[np.diff(rows, prepend=-1).astype(bool)]


def _path_cost(costs: NDArray[np.float64], starts: NDArray[np.intp]) -> float:
    """Return the cost of the cheapest path that enters the rows at these columns, from above or diagonally."""
    total = 0.0
    for row, (start, next_start) in enumerate(pairwise([*starts, costs.shape[1]])):
        total += costs[row, start : max(next_start, start + 1)].sum()
        if start < next_start < costs.shape[1]:
            total += min(0.0, costs[row, next_start])
    return total


@pytest.mark.parametrize("seed", range(40))
def test_the_path_equals_transformers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    costs = [rng.normal(size=rng.integers(1, 40, size=2)) for _ in range(4)]
    for matrix, starts in zip(costs, row_starts([torch.from_numpy(matrix) for matrix in costs]), strict=True):
        np.testing.assert_array_equal(starts, _transformers_starts(matrix))
        assert _path_cost(matrix, starts) == pytest.approx(_path_cost(matrix, _transformers_starts(matrix)), abs=1e-9)


# Small whole numbers: ties everywhere, and no rounding in transformers' float32.
@settings(deadline=None)
@given(
    st.lists(
        arrays(np.float64, st.tuples(st.integers(1, 8), st.integers(1, 12)), elements=st.integers(-3, 3).map(float)),
        min_size=1,
        max_size=4,
    )
)
def test_the_path_is_the_cheapest(costs: list[NDArray[np.float64]]) -> None:
    for matrix, starts in zip(costs, row_starts([torch.from_numpy(matrix) for matrix in costs]), strict=True):
        assert starts[0] == 0
        assert (np.diff(starts) >= 0).all()
        assert _path_cost(matrix, starts) == pytest.approx(_cheapest(matrix), abs=1e-9)


def _cheapest(costs: NDArray[np.float64]) -> float:
    """Return the cost of the cheapest path, computed cell by cell by the recurrence."""
    reached = np.full(np.add(costs.shape, 1), np.inf)
    reached[0, 0] = 0
    for row, column in np.ndindex(costs.shape):
        reached[row + 1, column + 1] = costs[row, column] + reached[row : row + 2, column : column + 2].min()
    return float(reached[-1, -1])
