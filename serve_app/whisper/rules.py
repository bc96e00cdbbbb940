"""Whisper's decoding rules: which tokens may come next.

As OpenAI's `whisper/decoding.py` (SuppressTokens, SuppressBlank, ApplyTimestampRules) has them
and transformers' logits processors apply them, for rows that are each at their own place.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from serve_app.whisper.tokens import SpecialTokens

NONE = -1
"""No token yet."""

FORBIDDEN = float("-inf")


@dataclass(frozen=True)
class History:
    """What the rules need of each row's generated tokens; the prefix is no part of it.

    `last` and `before` are the two latest tokens, `timestamp` the latest timestamp token;
    int64 of shape (rows,), NONE where there is none.
    """

    last: Tensor
    before: Tensor
    timestamp: Tensor

    @classmethod
    def empty(cls, rows: int, device: torch.device) -> Self:
        none = torch.full((rows,), NONE, device=device)
        return cls(last=none, before=none, timestamp=none)

    def append(self, tokens: Tensor, first_timestamp: int) -> "History":
        """The history after every row generated one more token."""
        return History(
            last=tokens,
            before=self.last,
            timestamp=torch.where(tokens >= first_timestamp, tokens, self.timestamp),
        )

    def rows(self, rows: Tensor) -> "History":
        """The history of some rows, in the order given."""
        return History(self.last[rows], self.before[rows], self.timestamp[rows])


class Rules:
    """Forbids tokens by setting their logits to minus infinity."""

    def __init__(self, tokens: SpecialTokens, vocabulary: int, device: torch.device) -> None:
        self._first_timestamp = tokens.first_timestamp
        self._end = tokens.end
        self._timestamps = torch.arange(tokens.first_timestamp, vocabulary, device=device)
        latest = tokens.max_initial_timestamp
        self._max_initial = vocabulary if latest is None else tokens.first_timestamp + latest
        self._never = torch.zeros(vocabulary, dtype=torch.bool, device=device)
        self._never[[*tokens.suppressed, tokens.no_timestamps]] = True
        self._not_at_begin = torch.zeros(vocabulary, dtype=torch.bool, device=device)
        self._not_at_begin[list(tokens.suppressed_at_begin)] = True

    def apply(self, logits: Tensor, history: History) -> None:
        """Mask `logits`, float of shape (rows, vocabulary), in place."""
        forbidden = self._never | (history.last == NONE)[:, None] & self._not_at_begin
        self._forbid_by_timestamps(forbidden, history)
        logits.masked_fill_(forbidden, FORBIDDEN)

        # All timestamps together more probable than any text token: the next token is a timestamp.
        # Probabilities' common divisor cancels, so logits will do.
        text, timestamps = logits[:, : self._first_timestamp], logits[:, self._first_timestamp :]
        stamped = timestamps.logsumexp(dim=-1) > text.amax(dim=-1)
        text.masked_fill_(stamped[:, None], FORBIDDEN)

    def _forbid_by_timestamps(self, forbidden: Tensor, history: History) -> None:
        """Timestamps come in pairs, do not decrease, and open the window's text."""
        first, end = self._first_timestamp, self._end
        at_begin = history.last == NONE
        after_timestamp = history.last >= first
        complete = after_timestamp & ((history.before == NONE) | (history.before >= first))
        half = after_timestamp & ~complete

        # A closing timestamp wants its opening one, which may be equal, or the end of the text.
        forbidden[:, :end] |= half[:, None]
        # After an opening one comes text, and timestamps only move on: no segment is empty.
        earliest = torch.where(half, history.timestamp, history.timestamp + 1)
        latest = torch.where(at_begin, self._max_initial, forbidden.shape[1]).where(~complete, NONE)
        forbidden[:, first:] |= (self._timestamps < earliest[:, None]) | (self._timestamps > latest[:, None])
        forbidden[:, :first] |= at_begin[:, None]
