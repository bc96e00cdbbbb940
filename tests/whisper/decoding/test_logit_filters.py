"""Logit filters, compared with transformers' logits processors row by row."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GenerationConfig
from transformers.generation.logits_process import (
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
    WhisperTimeStampLogitsProcessor,
)

from serve_app.whisper.decoding.logit_filters import FORBIDDEN, LogitFilters, TokenHistory
from serve_app.whisper.model.tokens import SpecialTokens

END, NO_TIMESTAMPS, VOCABULARY = 20, 30, 62
FIRST = NO_TIMESTAMPS + 1
CPU = torch.device("cpu")


def special(latest: int | None) -> SpecialTokens:
    return SpecialTokens(
        start=21,
        end=END,
        no_timestamps=NO_TIMESTAMPS,
        languages={"en": 22},
        tasks={"transcribe": 25, "translate": 24},
        suppressed=(3, 21, 26),
        suppressed_at_begin=(5, END),
        max_initial_timestamp_index=latest,
    )


def reference(prefix: list[int], generated: list[int], logits: torch.Tensor, latest: int | None) -> torch.Tensor:
    config = GenerationConfig(
        no_timestamps_token_id=NO_TIMESTAMPS, eos_token_id=END, max_initial_timestamp_index=latest
    )
    ids = torch.tensor([prefix + generated])
    scores = logits[None]
    for processor in (
        SuppressTokensAtBeginLogitsProcessor([5, END], begin_index=len(prefix)),
        SuppressTokensLogitsProcessor([3, 21, 26]),
        WhisperTimeStampLogitsProcessor(config, begin_index=len(prefix)),
    ):
        scores = processor(ids, scores)
    return scores[0]


texts = st.integers(0, END - 1)
stamps = st.integers(FIRST, VOCABULARY - 1)
row = st.tuples(
    st.lists(st.one_of(texts, stamps), max_size=6),  # a prompt may hold anything
    st.lists(st.one_of(texts, stamps), max_size=6),
)


@given(
    rows=st.lists(row, min_size=1, max_size=6),
    latest=st.sampled_from([None, 0, 4, 30]),
    seed=st.integers(0, 10_000),
    lean=st.sampled_from([-4.0, 0.0, 4.0]),
)
def test_masks_equal_transformers_for_any_history(
    rows: list[tuple[list[int], list[int]]], latest: int | None, seed: int, lean: float
) -> None:
    logits = torch.randn(len(rows), VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 3
    logits[:, FIRST:] += lean
    history = histories([generated for _, generated in rows])
    expected = torch.stack(
        [
            reference([29, *prompt, 21, 22, 25], generated, logits[index], latest)
            for index, (prompt, generated) in enumerate(rows)
        ]
    )

    LogitFilters(special(latest), VOCABULARY, CPU).apply(logits, history)

    torch.testing.assert_close(logits, expected, rtol=0, atol=0)


def histories(generated: list[list[int]], latest: int | None = None, with_timestamps: bool = True) -> TokenHistory:
    """Return rows after their tokens were generated one by one."""
    all_rows = TokenHistory.empty(len(generated), VOCABULARY, CPU)
    for row, tokens in enumerate(generated):
        history = all_rows.rows(row, row + 1)
        LogitFilters(special(latest), VOCABULARY, CPU).reset(history, with_timestamps, special(latest).suppressed)
        for token in tokens:
            history.append(torch.tensor([token]), FIRST)
    return all_rows


def allowed(generated: list[int], latest: int | None = 4) -> set[int]:
    logits = torch.zeros(1, VOCABULARY)
    logits[:, FIRST:] -= 10  # no timestamp by weight alone
    LogitFilters(special(latest), VOCABULARY, CPU).apply(logits, histories([generated]))
    return set((logits[0] > FORBIDDEN).nonzero().flatten().tolist())


PLAIN = set(range(VOCABULARY)) - {3, 21, 26, NO_TIMESTAMPS}


@pytest.mark.parametrize(
    ("generated", "expected"),
    [
        ([], set(range(FIRST, FIRST + 5))),
        ([FIRST], PLAIN - set(range(FIRST, VOCABULARY))),
        ([FIRST, 7], PLAIN - {FIRST}),
        ([FIRST, 7, FIRST + 9], {END, *range(FIRST + 9, VOCABULARY)} | {22, 23, 24, 25, 27, 28, 29}),
        ([FIRST, 7, FIRST + 9, FIRST + 9], PLAIN - set(range(FIRST, VOCABULARY))),
        ([FIRST, 7, FIRST + 9, FIRST + 9, 8], PLAIN - set(range(FIRST, FIRST + 10))),
    ],
    ids=["begin", "opened", "text", "closed", "opened again", "text again"],
)
def test_allowed_tokens(generated: list[int], expected: set[int]) -> None:
    assert allowed(generated) == expected


def test_timestamp_is_forced_by_the_sum_of_timestamp_probabilities() -> None:
    history = histories([[FIRST, 7], [FIRST, 7]])
    logits = torch.zeros(2, VOCABULARY)
    logits[:, 8] = 3.0  # thirty timestamps of weight e^0 outweigh e^3, not e^4
    logits[1, 8] = 4.0

    LogitFilters(special(None), VOCABULARY, CPU).apply(logits, history)

    assert logits.argmax(dim=-1).ge(FIRST).tolist() == [True, False]
    assert torch.isinf(logits[0, :FIRST]).all()


@given(generated=st.lists(st.lists(st.one_of(texts, stamps), min_size=1, max_size=6), min_size=1, max_size=4))
def test_restored_rows_equal_rows_that_generated_the_text(generated: list[list[int]]) -> None:
    history = histories([[] for _ in generated])
    LogitFilters(special(None), VOCABULARY, CPU).restore(history, torch.arange(len(generated)), generated)
    for part, expected in zip(history.tensors, histories(generated).tensors, strict=True):
        assert torch.equal(part, expected)


def test_timestamp_rules_do_not_apply_without_timestamps() -> None:
    logits = torch.zeros(1, VOCABULARY)
    LogitFilters(special(4), VOCABULARY, CPU).apply(logits, histories([[FIRST, 7, FIRST + 9]], with_timestamps=False))
    assert set((logits[0] > FORBIDDEN).nonzero().flatten().tolist()) == set(range(VOCABULARY)) - {3, 21, 26}
