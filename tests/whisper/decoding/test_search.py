"""Searches over made-up languages, small enough to look at every text."""

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


def likely(seed: int, text: Sequence[int]) -> list[float]:
    """Log-probabilities of the four tokens after a text: any, but always the same."""
    weights = [math.sin(seed + 7.3 * token + 1.9 * sum((i + 1) * t for i, t in enumerate(text))) for token in range(4)]
    total = math.log(sum(math.exp(2 * weight) for weight in weights))
    return [2 * weight - total for weight in weights]


def beam_search(seed: int, plan: SearchConfig) -> Hypothesis:
    """Drive Beams as a decoder does."""
    beams = start_search(plan, END)
    assert isinstance(beams, BeamSearch)
    texts: list[tuple[int, ...]] = [()] * plan.rows
    while beams.best is None:
        candidates = []
        for text in texts:
            order = sorted(enumerate(likely(seed, text)), key=lambda pair: pair[1], reverse=True)
            candidates.append(order[: plan.rows + 1])
        follow = beams.advance(candidates)
        for row, text in follow:
            assert text[:-1] == texts[row]
        texts = [text for _, text in follow]
    return beams.best


def openai_beam_search(seed: int, plan: SearchConfig) -> tuple[int, ...]:
    """openai-whisper's BeamSearchDecoder and MaximumLikelihoodRanker, over dictionaries of whole sequences."""
    most = round(plan.rows * plan.patience)
    texts: list[tuple[int, ...]] = [()] * plan.rows
    sums = [0.0] * plan.rows
    finished: dict[tuple[int, ...], float] = {}
    for _ in range(plan.limit):
        scores = {}
        for text, total in zip(texts, sums, strict=True):
            order = sorted(enumerate(likely(seed, text)), key=lambda pair: pair[1], reverse=True)
            for token, logprob in order[: plan.rows + 1]:
                scores[*text, token] = total + logprob
        texts, sums, ended = [], [], {}
        for sequence in sorted(scores, key=scores.__getitem__, reverse=True):
            if sequence[-1] == END:
                ended[sequence] = scores[sequence]
            else:
                texts.append(sequence)
                sums.append(scores[sequence])
                if len(texts) == plan.rows:
                    break
        for sequence in sorted(ended, key=ended.__getitem__, reverse=True):
            if len(finished) < most:
                finished[sequence] = ended[sequence]
        if len(finished) >= most:
            break
    for total, text in sorted(zip(sums, texts, strict=True), reverse=True):
        if len(finished) >= plan.rows:
            break
        finished[*text, END] = total

    def score(sequence: tuple[int, ...]) -> float:
        length = len(sequence) - 1
        penalty = length if plan.length_penalty is None else ((5 + length) / 6) ** plan.length_penalty
        return finished[sequence] / max(penalty, 1 if plan.length_penalty is None else penalty)

    return max(finished, key=score)[:-1]


@settings(max_examples=200)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 4),
    patience=st.sampled_from([0.5, 1.0, 2.0]),
    length_penalty=st.sampled_from([None, 0.0, 0.6, 1.0]),
    limit=st.integers(1, 6),
)
def test_beams_are_those_of_openai(
    seed: int, rows: int, patience: float, length_penalty: float | None, limit: int
) -> None:
    if round(rows * patience) < 1:
        return
    plan = SearchConfig(rows=rows, beams=True, patience=patience, length_penalty=length_penalty, limit=limit)
    assert beam_search(seed, plan).tokens == openai_beam_search(seed, plan)


@given(seed=st.integers(0, 10_000))
def test_enough_beams_find_the_likeliest_text_of_all(seed: int) -> None:
    limit, rows = 3, 40
    found = beam_search(seed, SearchConfig(rows=rows, beams=True, patience=1.0, length_penalty=0.0, limit=limit))
    ended = []
    for length in range(limit):
        for text in product(range(END), repeat=length):
            parts = [likely(seed, text[:place])[token] for place, token in enumerate((*text, END))]
            ended.append((sum(parts), text))
    assert found.sum_logprob >= max(ended)[0] - 1e-9


def test_one_beam_is_greedy() -> None:
    for seed in range(50):
        text: list[int] = []
        while len(text) < 6 and (token := max(range(4), key=likely(seed, text).__getitem__)) != END:
            text.append(token)
        assert beam_search(seed, SearchConfig(rows=1, beams=True, limit=6)).tokens == tuple(text)


def test_the_likeliest_of_some_texts_wins_once_all_have_ended() -> None:
    texts = start_search(SearchConfig(rows=2, temperature=0.5), END)
    assert isinstance(texts, SamplingSearch)
    assert not texts.add_token(0, 1, -0.1)
    assert not texts.add_token(1, 2, -0.5)
    assert texts.add_token(0, END, -3.0)
    assert texts.best is None
    assert texts.add_token(1, END, -0.5)
    assert texts.best == Hypothesis((2,), (-0.5,), -0.5)
    assert texts.best.sum_logprob == -1.0


def test_a_text_ends_where_it_must() -> None:
    texts = start_search(SearchConfig(limit=2), END)
    assert isinstance(texts, SamplingSearch)
    assert [texts.add_token(0, 1, -0.1), texts.add_token(0, 1, -0.1)] == [False, True]
    assert texts.best == Hypothesis((1, 1), (-0.1, -0.1))


@pytest.mark.parametrize("stamped", [False, True])
def test_a_loop_is_left(stamped: bool) -> None:
    """Rising timestamps between the repeats do not hide it."""
    texts = start_search(SearchConfig(limit=400, max_speech_tokens=30), END)
    assert isinstance(texts, SamplingSearch)
    written = 0
    while not texts.add_token(0, 10 + written if stamped and written % 5 == 4 else written % 5 % 3, -0.1):
        written += 1
    assert texts.best is not None
    assert texts.best.is_repetitive
    assert 30 <= len(texts.best.tokens) < 50


@pytest.mark.parametrize("tokens", [[0, 1, 2] * 5, list(range(3)) + [2, 0, 1, 1, 0, 2, 2, 2, 1, 0] * 3])
def test_what_can_be_said_or_does_not_repeat_is_no_loop(tokens: list[int]) -> None:
    assert not is_endless_repetition(tokens, 30, END)
