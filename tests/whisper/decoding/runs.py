"""Decode windows with requests of every kind, for tests of the decoder."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import Tensor

from serve_app.whisper.decoding.decoder import Decoder, DecodeRequest, DecodingResult, SequenceState
from serve_app.whisper.decoding.kv_slots import GraphCapture, Shape, StepOutput
from serve_app.whisper.decoding.search import SearchConfig
from serve_app.whisper.model.whisper_model import WhisperModel

Window = NDArray[np.int16]


PROMPTS = ["", "three one four", "nine " * 300]


def decode(model: WhisperModel, states: Tensor, requests: Sequence[DecodeRequest]) -> list[DecodingResult]:
    """Decode all windows in one batch."""
    decoder = Decoder(model, sum(decode_request.search.rows for decode_request in requests))
    sequences = decoder.add_sequences(states, requests)
    while decoder.has_work:
        decoder.step()
    return results(sequences)


def results(sequences: Sequence[SequenceState]) -> list[DecodingResult]:
    assert all(sequence.result for sequence in sequences)
    return [sequence.result for sequence in sequences if sequence.result]


def mixed_requests(model: WhisperModel, count: int) -> list[DecodeRequest]:
    """Return requests with all languages and none, both tasks, and prompts of all lengths."""
    special = model.card.tokens
    room = model.card.max_prompt_tokens
    prompts = [special.prompt(room, model.tokenize(text)) for text in PROMPTS]
    languages = [None, *list(special.languages.values())[:4]]
    return [
        DecodeRequest(
            prompt=prompts[index % 3],
            language=languages[index % len(languages)],
            task="translate" if special.is_multilingual and index % 4 == 3 else "transcribe",
            suppressed=special.suppressed,
        )
        for index in range(count)
    ]


def assert_equal_results(ones: Sequence[DecodingResult], others: Sequence[DecodingResult]) -> None:
    for one, other in zip(ones, others, strict=True):
        assert (one.hypothesis.tokens, one.language) == (other.hypothesis.tokens, other.language)
        assert one.hypothesis.sum_logprob == pytest.approx(other.hypothesis.sum_logprob, abs=1e-2)
        assert one.no_speech_prob == pytest.approx(other.no_speech_prob, abs=1e-4)


def decode_in_few_rows(
    model: WhisperModel,
    states: Tensor,
    requests: Sequence[DecodeRequest],
    rows: int,
    lookahead_steps: int,
    record: GraphCapture | None = None,
) -> list[DecodingResult]:
    """Decode windows in few rows: each starts as soon as enough are free."""
    decoder = Decoder(model, rows, lookahead_steps, record)
    sequences: list[SequenceState] = []
    while len(sequences) < len(states) or decoder.has_work:
        while len(sequences) < len(states) and requests[len(sequences)].search.rows <= decoder.free_rows:
            at = len(sequences)
            sequences += decoder.add_sequences(states[at : at + 1], requests[at : at + 1])
        decoder.step()
    return results(sequences)


def requests_of_every_search(model: WhisperModel, count: int) -> list[DecodeRequest]:
    """Return `mixed_requests`, some with beam search and some with sampling."""
    configs = [
        SearchConfig(),
        SearchConfig(rows=3, is_beam_search=True),
        SearchConfig(rows=2, temperature=0.7, seed=5),
        SearchConfig(),
    ]
    return [replace(each, search=configs[index % 4]) for index, each in enumerate(mixed_requests(model, count))]


class GraphStandIn:
    """Checks on a CPU what CUDA graphs require: only captured shapes, and tensors that are never reallocated."""

    def __init__(self, compute: Callable[[Shape], StepOutput], shapes: Iterable[Shape]) -> None:
        self._compute = compute
        self._shapes = list(shapes)
        self._slots: Any = getattr(compute, "__self__")  # noqa: B009 - a bound method's owner
        for shape in self._shapes:
            compute(shape)
        self._first_addresses = self._addresses()

    def _addresses(self) -> list[int]:
        own = [part for part in vars(self._slots).values() if isinstance(part, Tensor)]
        return [part.data_ptr() for part in (*own, *self._slots._history.tensors)]

    def __call__(self, shape: Shape) -> StepOutput:
        assert shape in self._shapes
        output = self._compute(shape)
        assert self._addresses() == self._first_addresses
        return output
