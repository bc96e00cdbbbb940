"""Whisper's decoding rules: which tokens may come next.

As OpenAI's `whisper/decoding.py` (SuppressTokens, SuppressBlank, ApplyTimestampRules) has them
and transformers' logits processors apply them, for rows that are each at their own place.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from serve_app.whisper.model.tokens import SpecialTokens

NONE = -1
"""No token yet."""

FORBIDDEN = float("-inf")


@dataclass(frozen=True)
class TokenHistory:
    """What the rules need of each row: its generated tokens, without the prefix, and what may be written at all.

    `last` and `before` are the two latest tokens, `timestamp` the latest timestamp token: int64 of
    shape (rows,), NONE where there is none. `timed` (rows,): whether timestamps are written.
    `never` (rows, vocabulary), float32: minus infinity for tokens that are not, else 0.
    """

    last: Tensor
    before: Tensor
    timestamp: Tensor
    with_timestamps: Tensor
    suppressed: Tensor

    @classmethod
    def empty(cls, rows: int, vocabulary: int, device: torch.device) -> Self:
        """Rows with timestamps, without a token yet or one that is forbidden."""
        last, before, timestamp = torch.full((3, rows), NONE, device=device)
        return cls(
            last=last,
            before=before,
            timestamp=timestamp,
            with_timestamps=torch.ones(rows, dtype=torch.bool, device=device),
            suppressed=torch.zeros(rows, vocabulary, device=device),
        )

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All parts, rows first."""
        return self.last, self.before, self.timestamp, self.with_timestamps, self.suppressed

    def rows(self, start: int, stop: int) -> "TokenHistory":
        """Some rows; what is written to them is written here."""
        return TokenHistory(*(part[start:stop] for part in self.tensors))

    def append(self, tokens: Tensor, first_timestamp: int) -> None:
        """Every row generated one more token."""
        self.timestamp.copy_(torch.where(tokens >= first_timestamp, tokens, self.timestamp))
        self.before.copy_(self.last)
        self.last.copy_(tokens)


class LogitFilters:
    """Forbids tokens by adding minus infinity to their logits: several times as fast on a CPU as masks are."""

    def __init__(self, tokens: SpecialTokens, vocabulary: int, device: torch.device) -> None:
        self._no_timestamps = tokens.no_timestamps
        self._first_timestamp = tokens.first_timestamp
        self._end = tokens.end
        self._timestamps = torch.arange(tokens.first_timestamp, vocabulary, device=device)
        latest = tokens.max_initial_timestamp
        self._max_initial = vocabulary if latest is None else tokens.first_timestamp + latest
        self._not_at_begin = torch.tensor(tokens.suppressed_at_begin, dtype=torch.long, device=device)

    def reset(self, history: TokenHistory, with_timestamps: bool, suppressed: Iterable[int]) -> None:
        """Start rows anew: with timestamps or without, and with tokens that are never to be written."""
        for part in (history.last, history.before, history.timestamp):
            part.fill_(NONE)
        history.with_timestamps.fill_(with_timestamps)
        history.suppressed.fill_(0)
        history.suppressed[:, [*suppressed, *((self._no_timestamps,) if with_timestamps else ())]] = FORBIDDEN

    def restore(self, history: TokenHistory, rows: Tensor, texts: Sequence[Sequence[int]]) -> None:
        """Set some rows to what they have generated so far, a token at least."""
        for part, values in (
            (history.last, [text[-1] for text in texts]),
            (history.before, [text[-2] if len(text) > 1 else NONE for text in texts]),
            (history.timestamp, [self._latest(text) for text in texts]),
        ):
            part[rows] = torch.tensor(values, device=part.device)

    def _latest(self, text: Sequence[int]) -> int:
        return next((token for token in reversed(text) if token >= self._first_timestamp), NONE)

    def apply(self, logits: Tensor, history: TokenHistory) -> None:
        """Forbid tokens in `logits`, float of shape (rows, vocabulary), in place."""
        logits += history.suppressed
        logits[:, self._not_at_begin] += _penalty(history.last == NONE)
        self._forbid_by_timestamps(logits, history)

        # All timestamps together more probable than any text token: the next token is a timestamp.
        # Probabilities' common divisor cancels, so logits will do.
        text, timestamps = logits[:, : self._first_timestamp], logits[:, self._first_timestamp :]
        text += _penalty((timestamps.logsumexp(dim=-1) > text.amax(dim=-1)) & history.with_timestamps)

        # Suppressed tokens may leave nothing to write: then the text ends, whatever was said of its end.
        no_valid_token = logits.amax(dim=-1) == FORBIDDEN
        logits[:, self._end] = torch.where(no_valid_token, 0.0, logits[:, self._end])

    def _forbid_by_timestamps(self, logits: Tensor, history: TokenHistory) -> None:
        """Timestamps come in pairs, do not decrease, and open the window's text."""
        first, end, timed = self._first_timestamp, self._end, history.with_timestamps
        at_begin = (history.last == NONE) & timed
        after_timestamp = (history.last >= first) & timed
        complete = after_timestamp & ((history.before == NONE) | (history.before >= first))
        half = after_timestamp & ~complete

        # A closing timestamp wants its opening one, which may be equal, or the end of the text.
        logits[:, :end] += _penalty(half | at_begin)
        logits[:, end:first] += _penalty(at_begin)
        # After an opening one comes text, and timestamps only move on: no segment is empty.
        earliest = torch.where(half, history.timestamp, history.timestamp + 1)
        latest = torch.where(at_begin, self._max_initial, logits.shape[1]).where(~complete, NONE)
        outside = (self._timestamps < earliest[:, None]) | (self._timestamps > latest[:, None])
        logits[:, first:].masked_fill_(outside & timed[:, None], FORBIDDEN)


def _penalty(rows: Tensor) -> Tensor:
    """What to add to logits of rows `(rows,)` that are, or are not, forbidden: `(rows, 1)`."""
    return torch.zeros(rows.shape, device=rows.device).masked_fill_(rows, FORBIDDEN)[:, None]
