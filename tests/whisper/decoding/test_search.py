"""Searches in random languages with four tokens, small enough to check every text."""

import math
from collections.abc import Sequence
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.whisper.decoding.search import (
    BeamSearch,
    Hypothesis,
    SamplingSearch,
    SearchConfig,
    is_endless_repetition,
    start_search,
)

END = 3
"""Tokens 0, 1 and 2 are text."""


def log_probabilities(seed: int, text: Sequence[int]) -> list[float]:
    """Return pseudo-random log-probabilities of the four tokens after a text."""
    weights = [math.sin(seed + 7.3 * token + 1.9 * sum((i + 1) * t for i, t in enumerate(text))) for token in range(4)]
    total = math.log(sum(math.exp(2 * weight) for weight in weights))
    return [2 * weight - total for weight in weights]


def beam_search(seed: int, config: SearchConfig) -> Hypothesis:
    """Run a beam search as the decoder does."""
    beams = start_search(config, END)
    assert isinstance(beams, BeamSearch)
    texts: list[tuple[int, ...]] = [()] * config.rows
    while beams.best is None:
        candidates = []
        for text in texts:
            order = sorted(enumerate(log_probabilities(seed, text)), key=lambda pair: pair[1], reverse=True)
            candidates.append(order[: config.rows + 1])
        continued = beams.advance(candidates)
        for row, text in continued:
            assert text[:-1] == texts[row]
        texts = [text for _, text in continued]
    return beams.best


def openai_beam_search(seed: int, config: SearchConfig) -> tuple[int, ...]:
    """openai-whisper's BeamSearchDecoder and MaximumLikelihoodRanker, over dictionaries of whole sequences."""
    most = round(config.rows * config.patience)
    texts: list[tuple[int, ...]] = [()] * config.rows
    sums = [0.0] * config.rows
    finished: dict[tuple[int, ...], float] = {}
    for _ in range(config.max_tokens):
        scores = {}
        for text, total in zip(texts, sums, strict=True):
            order = sorted(enumerate(log_probabilities(seed, text)), key=lambda pair: pair[1], reverse=True)
            for token, logprob in order[: config.rows + 1]:
                scores[*text, token] = total + logprob
        texts, sums, ended = [], [], {}
        for sequence in sorted(scores, key=scores.__getitem__, reverse=True):
            if sequence[-1] == END:
                ended[sequence] = scores[sequence]
            else:
                texts.append(sequence)
                sums.append(scores[sequence])
                if len(texts) == config.rows:
                    break
        for sequence in sorted(ended, key=ended.__getitem__, reverse=True):
            if len(finished) < most:
                finished[sequence] = ended[sequence]
        if len(finished) >= most:
            break
    for total, text in sorted(zip(sums, texts, strict=True), reverse=True):
        if len(finished) >= config.rows:
            break
        finished[*text, END] = total

    def score(sequence: tuple[int, ...]) -> float:
        length = len(sequence) - 1
        penalty = length if config.length_penalty is None else ((5 + length) / 6) ** config.length_penalty
        return finished[sequence] / max(penalty, 1 if config.length_penalty is None else penalty)

    return max(finished, key=score)[:-1]


@settings(max_examples=200)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 4),
    patience=st.sampled_from([0.5, 1.0, 2.0]),
    length_penalty=st.sampled_from([None, 0.0, 0.6, 1.0]),
    limit=st.integers(1, 6),
)
def test_beam_search_equals_openai_whispers(
    seed: int, rows: int, patience: float, length_penalty: float | None, limit: int
) -> None:
    if round(rows * patience) < 1:
        return
    config = SearchConfig(
        rows=rows, is_beam_search=True, patience=patience, length_penalty=length_penalty, max_tokens=limit
    )
    assert beam_search(seed, config).tokens == openai_beam_search(seed, config)


@given(seed=st.integers(0, 10_000))
def test_enough_beams_find_the_most_likely_text(seed: int) -> None:
    limit, rows = 3, 40
    found = beam_search(
        seed, SearchConfig(rows=rows, is_beam_search=True, patience=1.0, length_penalty=0.0, max_tokens=limit)
    )
    ended = []
    for length in range(limit):
        for text in product(range(END), repeat=length):
            parts = [log_probabilities(seed, text[:place])[token] for place, token in enumerate((*text, END))]
            ended.append((sum(parts), text))
    assert found.sum_logprob >= max(ended)[0] - 1e-9


def test_one_beam_is_greedy() -> None:
    for seed in range(50):
        text: list[int] = []
        while len(text) < 6 and (token := max(range(4), key=log_probabilities(seed, text).__getitem__)) != END:
            text.append(token)
        assert beam_search(seed, SearchConfig(rows=1, is_beam_search=True, max_tokens=6)).tokens == tuple(text)


def test_the_most_likely_sample_is_best_once_all_have_ended() -> None:
    texts = start_search(SearchConfig(rows=2, temperature=0.5), END)
    assert isinstance(texts, SamplingSearch)
    assert not texts.add_token(0, 1, -0.1)
    assert not texts.add_token(1, 2, -0.5)
    assert texts.add_token(0, END, -3.0)
    assert texts.best is None
    assert texts.add_token(1, END, -0.5)
    assert texts.best == Hypothesis((2,), (-0.5,), -0.5)
    assert texts.best.sum_logprob == -1.0


def test_a_text_ends_at_max_tokens() -> None:
    texts = start_search(SearchConfig(max_tokens=2), END)
    assert isinstance(texts, SamplingSearch)
    assert [texts.add_token(0, 1, -0.1), texts.add_token(0, 1, -0.1)] == [False, True]
    assert texts.best == Hypothesis((1, 1), (-0.1, -0.1))


@pytest.mark.parametrize("stamped", [False, True])
def test_a_repetition_loop_is_stopped(stamped: bool) -> None:
    """Increasing timestamps between the repetitions do not hide it."""
    texts = start_search(SearchConfig(max_tokens=400, max_speech_tokens=30), END)
    assert isinstance(texts, SamplingSearch)
    written = 0
    while not texts.add_token(0, 10 + written if stamped and written % 5 == 4 else written % 5 % 3, -0.1):
        written += 1
    assert texts.best is not None
    assert texts.best.is_repetitive
    assert 30 <= len(texts.best.tokens) < 50


@pytest.mark.parametrize("tokens", [[0, 1, 2] * 5, list(range(3)) + [2, 0, 1, 1, 0, 2, 2, 2, 1, 0] * 3])
def test_short_or_varied_texts_are_no_loop(tokens: list[int]) -> None:
    assert not is_endless_repetition(tokens, 30, END)
