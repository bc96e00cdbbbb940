"""Results do not depend on what else is in the batch, nor on the number of rows or lookahead steps."""

import pytest
from torch import Tensor

from serve_app.whisper.model.whisper_model import WhisperModel
from tests.whisper.decoding.runs import (
    GraphStandIn,
    Window,
    assert_equal_results,
    decode,
    decode_in_few_rows,
    requests_of_every_search,
)

pytestmark = pytest.mark.slow  # compares many decoding runs


@pytest.mark.parametrize("lookahead_steps", [0, 1], ids=["in step", "a step lookahead_steps"])
@pytest.mark.parametrize("rows", [3, 7, 16])
def test_results_do_not_depend_on_windows_that_join_and_leave(
    large_layout: WhisperModel, large_states: Tensor, rows: int, lookahead_steps: int
) -> None:
    """Rows are reused, compacted, and reordered by beams. Outputs are read late, as on a CUDA device."""
    requests = requests_of_every_search(large_layout, len(large_states))
    alone = [decode(large_layout, large_states[i : i + 1], requests[i : i + 1])[0] for i in range(len(requests))]
    assert_equal_results(decode_in_few_rows(large_layout, large_states, requests, rows, lookahead_steps), alone)


@pytest.mark.parametrize("rows", [3, 16])
def test_steps_fulfil_the_conditions_of_cuda_graphs(
    large_layout: WhisperModel, large_states: Tensor, rows: int
) -> None:
    """With one lookahead step, in the shapes that are captured on a CUDA device, after a warm-up with all of them."""
    requests = requests_of_every_search(large_layout, len(large_states))
    expected = decode_in_few_rows(large_layout, large_states, requests, rows, 0)
    assert_equal_results(decode_in_few_rows(large_layout, large_states, requests, rows, 1, GraphStandIn), expected)


@pytest.mark.parametrize("precision", ["nano", "nano_bfloat16"])
def test_results_are_bit_for_bit_independent_of_the_batch(
    precision: str, sounds: list[Window], request: pytest.FixtureRequest
) -> None:
    """On a CPU, in either precision: log-probabilities are equal, not only close."""
    model: WhisperModel = request.getfixturevalue(precision)
    states = model.encode(model.features(sounds))
    requests = requests_of_every_search(model, len(sounds))
    alone = [
        decode(model, model.encode(model.features([sound])), [decode_request])[0]
        for sound, decode_request in zip(sounds, requests, strict=True)
    ]
    assert decode(model, states, requests) == alone
    assert decode_in_few_rows(model, states, requests, 5, 0) == alone
