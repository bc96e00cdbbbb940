"""The KV cache of a decoder: a fixed number of rows, each of which decodes one sequence at its own position."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from serve_app.whisper.decoding.cuda_graphs import CudaGraphs
from serve_app.whisper.decoding.logit_filters import LogitFilters, TokenHistory
from serve_app.whisper.model.whisper_model import WhisperModel

LENGTHS = (64, 128, 256)
"""Lengths of the self-attention cache that a step can read, besides its full length. Each is a CUDA graph."""

CPU_ROWS = 4
"""On a CPU, the number of rows of a step is rounded up to a multiple of this. On AMD CPUs a float32 product of another
number of rows uses another kernel, which rounds differently: results would depend on what else is in the batch. For
Intel CPUs see `model/reproducible.py`."""


Shape = tuple[int, int, bool]
"""The shape of a step: its rows, the length of the self-attention cache it reads, and whether it samples tokens."""


@dataclass(frozen=True)
class StepOutput:
    """Each row's next token, the token's log-probability, and the log-probabilities of the whole vocabulary.

    Shapes (rows,), (rows,) and (rows, vocabulary). Valid until the next step.
    """

    tokens: Tensor
    logprob: Tensor
    logprobs: Tensor


Record = Callable[[Callable[[Shape], StepOutput], Iterable[Shape]], Callable[[Shape], StepOutput]]


class KVSlots:
    """The caches and decoding state of `rows` rows. Rows in use come first.

    No tensor is ever reallocated, so that steps can be captured as CUDA graphs. `record` captures them: it is called
    with the step function and all shapes. It defaults to `CudaGraphs` on a CUDA device.

    With graphs each row has a cross-attention cache of its own. Without, all rows of a window (its beams) share one,
    which a step reads from memory once.
    """

    def __init__(self, model: WhisperModel, rows: int, record: Record | None = None) -> None:
        device = model.device
        if record is None and device.type == "cuda":
            record = CudaGraphs
        if record is None:
            capacity = -(-rows // CPU_ROWS) * CPU_ROWS
            self._row_buckets = list(range(CPU_ROWS, capacity + 1, CPU_ROWS))
        else:
            capacity = rows
            self._row_buckets = [*(2**power for power in range(rows.bit_length()) if 2**power < rows), rows]
        self._length_buckets = [*(length for length in LENGTHS if length < model.positions), model.positions]
        self._model = model
        self._filters = LogitFilters(model.card.tokens, model.vocabulary, device)
        self._history = TokenHistory.empty(capacity, model.vocabulary, device)
        self._tokens = torch.zeros(capacity, 1, dtype=torch.long, device=device)
        self._positions = torch.zeros(capacity, 1, dtype=torch.long, device=device)
        self._inverse_temperature = torch.ones(capacity, 1, device=device)
        self._noise = torch.zeros(capacity, model.vocabulary, device=device)
        self._self_kv = model.new_kv_cache(capacity, model.positions)
        self._cross_kv = model.new_kv_cache(capacity, model.audio_positions)
        # The index in `_cross_kv` of each row in use; null: each row has its own, in order.
        self._cross_kv_index: list[int] | None = [] if record is None else None
        self._run: Callable[[Shape], StepOutput] = self._step
        if record is not None:
            self._run = record(self._step, product(self._row_buckets, self._length_buckets, (False, True)))

    @torch.inference_mode()
    def set_cross_attention(self, row: int, states: Tensor) -> None:
        """Write the cross-attention keys and values of windows that will use rows from `row` on.

        `states`: encoder states `(windows, positions, width)`.
        """
        place = self._next_cross_kv(row)
        for index, own in enumerate(states):
            self._model.write_cross_kv(own[None], self._cross_kv[:, :, place + index : place + index + 1])

    @torch.inference_mode()
    def prefill(self, row: int, prefixes: Sequence[Sequence[int]], starts: Sequence[int]) -> Tensor:
        """Prefill one row per window, from `row` on, with its prefix tokens, of which the first is at `starts`.

        Returns the logits `(windows, vocabulary)` after each prefix.

        Shorter prefixes are padded at their end. The padding is overwritten before any token attends to it.
        """
        device, stop = self._model.device, row + len(prefixes)
        # A multiple of four, so that products do not depend on the number of tokens: see CPU_ROWS.
        length = -(-max(map(len, prefixes)) // CPU_ROWS) * CPU_ROWS
        length = min(length, self._model.positions - max(starts))
        tokens = torch.tensor([[*prefix, *[0] * (length - len(prefix))] for prefix in prefixes], device=device)
        positions = torch.tensor(starts, device=device)[:, None] + torch.arange(length, device=device)
        place = self._next_cross_kv(row)
        self_kv, cross_kv = self._self_kv[:, :, row:stop], self._cross_kv[:, :, place : place + len(prefixes)]
        hidden = self._model.decode_step(
            self_kv, cross_kv, tokens, positions, self._length_bucket(max(starts) + length)
        )
        # Again a multiple of four rows; the last ones repeat the first.
        places = [index % len(prefixes) for index in range(-(-len(prefixes) // CPU_ROWS) * CPU_ROWS)]
        last = torch.tensor([len(prefixes[place]) - 1 for place in places], device=device)
        return self._model.logits(hidden[torch.tensor(places, device=device), last])[: len(prefixes)]

    @torch.inference_mode()
    def expand_rows(self, row: int, counts: Sequence[int], length: int) -> None:
        """Copy each prefilled row, from `row` on, to as many rows as its search needs (`counts`), keeping their order.

        `length`: prefilled positions.
        """
        place = self._next_cross_kv(row)
        if self._cross_kv_index is not None:
            self._cross_kv_index += [place + window for window, count in enumerate(counts) for _ in range(count)]
        parts = [self._self_kv[..., :length, :]] + ([self._cross_kv] if self._cross_kv_index is None else [])
        stop = row + sum(counts)
        for window in reversed(range(len(counts))):  # no window's rows begin before the row it was read in
            start, source = stop - counts[window], row + window
            for part in parts:
                if start != source:
                    part[:, :, start] = part[:, :, source]
                part[:, :, start + 1 : stop] = part[:, :, start : start + 1]
            stop = start

    @torch.inference_mode()
    def start_row(
        self, row: int, token: int, position: int, with_timestamps: bool, suppressed: Iterable[int], temperature: float
    ) -> None:
        """Start decoding in a row, from the last token of its prefix. `temperature`: 0 for greedy decoding."""
        self._tokens[row] = token
        self._positions[row] = position
        self._inverse_temperature[row] = 1 / temperature if temperature else 1.0
        self._noise[row] = 0
        self._filters.reset(self._history.rows(row, row + 1), with_timestamps, suppressed)

    @torch.inference_mode()
    def sample_noise(self, row: int, generator: torch.Generator) -> None:
        """Set the Gumbel noise that makes the row's next token a random sample."""
        noise = self._noise[row]
        noise.exponential_(generator=generator).log_().neg_()

    @torch.inference_mode()
    def step(self, rows: int, length: int, with_noise: bool) -> StepOutput:
        """Decode one more token in each of the first `rows` rows, none of which has `length` positions yet."""
        return self._run((self._row_bucket(rows), self._length_bucket(length), with_noise))

    @torch.inference_mode()
    def reorder(self, rows: Sequence[int], sources: Sequence[int], texts: Sequence[Sequence[int]], length: int) -> None:
        """Make each of `rows` a copy of the row in `sources`, then continue it from a text of its own (beam search).

        `texts`: the tokens each row has generated, including its next one. `length`: the most positions filled so far.
        """
        moved = [(row, source) for row, source in zip(rows, sources, strict=True) if row != source]
        if moved:
            into, out_of = torch.tensor(moved, device=self._model.device).T
            self._self_kv[:, :, into, :, :length] = self._self_kv[:, :, out_of, :, :length]
        into = torch.tensor(rows, device=self._model.device)
        self._filters.restore(self._history, into, texts)
        self._tokens[into, 0] = self._history.last[into]

    @torch.inference_mode()
    def compact(self, order: Sequence[int]) -> None:
        """Move row `order[i]` to row i for every i. Only rows whose place changes are copied."""
        moved = [row for row, source in enumerate(order) if row != source]
        if moved:
            sources = [order[row] for row in moved]
            for part in (self._tokens, self._positions, self._inverse_temperature, self._noise, *self._history.tensors):
                part[moved] = part[sources]
            self._self_kv[:, :, moved] = self._self_kv[:, :, sources]
            if self._cross_kv_index is None:
                self._cross_kv[:, :, moved] = self._cross_kv[:, :, sources]
        if self._cross_kv_index is not None:
            self._cross_kv_index = self._compact_cross_kv([self._cross_kv_index[row] for row in order])

    @torch.inference_mode()
    def _step(self, shape: Shape) -> StepOutput:
        rows, length, drawn = shape
        model, history = self._model, self._history.rows(0, rows)
        tokens, positions = self._tokens[:rows], self._positions[:rows]
        self_kv, cross_kv = self._self_kv[:, :, :rows], self._cross_kv[:, :, :rows]
        hidden = model.decode_step(self_kv, cross_kv, tokens, positions, length, self._cross_kv_index)
        logits = model.logits(hidden[:, 0])
        self._filters.apply(logits, history)
        weights = logits * self._inverse_temperature[:rows] + self._noise[:rows] if drawn else logits
        chosen = weights.max(dim=-1).indices  # argmax takes a CPU twice as long
        logprobs = logits.log_softmax(dim=-1)
        history.append(chosen, model.card.tokens.first_timestamp)
        tokens.copy_(chosen[:, None])
        # Padding rows advance too, and must stay within the cache.
        positions.copy_((positions + 1).clamp(max=model.positions - 1))
        return StepOutput(chosen, logprobs.gather(1, chosen[:, None])[:, 0], logprobs)

    def _next_cross_kv(self, row: int) -> int:
        """Return the first free index in `_cross_kv` when rows before `row` are in use."""
        return row if self._cross_kv_index is None else max(self._cross_kv_index, default=-1) + 1

    def _compact_cross_kv(self, index: list[int]) -> list[int]:
        """Move entries of `_cross_kv` so that those in use come first, as few as possible. Return each row's index."""
        used = set(index)
        free = [place for place in range(len(used)) if place not in used]
        moves = dict(zip(sorted(place for place in used if place >= len(used)), free, strict=True))
        for source, place in moves.items():
            self._cross_kv[:, :, place] = self._cross_kv[:, :, source]
        return [moves.get(place, place) for place in index]

    def _row_bucket(self, rows: int) -> int:
        return next(count for count in self._row_buckets if count >= rows)

    def _length_bucket(self, length: int) -> int:
        return next(most for most in self._length_buckets if most >= length)
