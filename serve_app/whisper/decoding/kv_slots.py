"""The KV cache of the decoder: a fixed number of rows, each of which decodes one sequence at its own position."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from serve_app.whisper.decoding.cuda_graphs import CudaGraphs
from serve_app.whisper.decoding.logit_filters import LogitFilters, TokenHistory
from serve_app.whisper.model.whisper_model import WhisperModel

LENGTHS = (64, 128, 256)
"""Lengths of the self-attention cache that a step can read, besides its full length: one CUDA graph each."""

CPU_ROWS = 4
"""On a CPU, the number of rows of a step is rounded up to a multiple of this. On AMD CPUs a float32 matrix product with
another number of rows uses another kernel, which rounds differently: results would depend on what else is in the batch.
For Intel CPUs see `model/reproducible.py`."""

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


GraphCapture = Callable[[Callable[[Shape], StepOutput], Iterable[Shape]], Callable[[Shape], StepOutput]]
"""Captures the step function for all shapes, and returns a function that replays it."""


class KVSlots:
    """The KV caches and the decoding state of `rows` rows. Rows in use come first.

    No tensor is ever reallocated, so that steps can be captured as CUDA graphs by `capture_graphs`, which defaults to
    `CudaGraphs` on a CUDA device.

    With graphs each row has its own cross-attention cache. Without graphs all rows of a window (its beams) share one,
    which a step reads from memory once.
    """

    def __init__(self, model: WhisperModel, rows: int, capture_graphs: GraphCapture | None = None) -> None:
        device = model.device
        if capture_graphs is None and device.type == "cuda":
            capture_graphs = CudaGraphs
        if capture_graphs is None:
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
        # The index in `_cross_kv` of each row in use; null if each row has its own, in order.
        self._cross_kv_index: list[int] | None = [] if capture_graphs is None else None
        self._run: Callable[[Shape], StepOutput] = self._step
        if capture_graphs is not None:
            self._run = capture_graphs(self._step, product(self._row_buckets, self._length_buckets, (False, True)))

    @torch.inference_mode()
    def set_cross_attention(self, row: int, states: Tensor) -> None:
        """Write the cross-attention keys and values of windows to the cache, for rows from `row` on.

        `states`: encoder states `(windows, positions, width)`.
        """
        first = self._next_cross_kv(row)
        for index, window in enumerate(states, first):
            self._model.write_cross_kv(window[None], self._cross_kv[:, :, index : index + 1])

    @torch.inference_mode()
    def prefill(
        self,
        row: int,
        prefixes: Sequence[Sequence[int]],
        starts: Sequence[int],
        read_after: Sequence[int] | None = None,
    ) -> Tensor:
        """Prefill one row per window, from `row` on, with prefix tokens. `starts`: the position of each first token.

        Returns the logits `(windows, vocabulary)` after `read_after` tokens of each prefix; null: after all. Shorter
        prefixes are padded at their end; the padding is overwritten before any token attends to it.
        """
        read_after = read_after or list(map(len, prefixes))
        device, stop = self._model.device, row + len(prefixes)
        # A multiple of four, so that results do not depend on the number of tokens: see CPU_ROWS.
        length = -(-max(map(len, prefixes)) // CPU_ROWS) * CPU_ROWS
        length = min(length, self._model.positions - max(starts))
        tokens = torch.tensor([[*prefix, *[0] * (length - len(prefix))] for prefix in prefixes], device=device)
        positions = torch.tensor(starts, device=device)[:, None] + torch.arange(length, device=device)
        first = self._next_cross_kv(row)
        self_kv, cross_kv = self._self_kv[:, :, row:stop], self._cross_kv[:, :, first : first + len(prefixes)]
        hidden = self._model.decode_step(
            self_kv, cross_kv, tokens, positions, self._length_bucket(max(starts) + length)
        )
        # Again a multiple of four rows: the first ones are repeated.
        rows = [index % len(prefixes) for index in range(-(-len(prefixes) // CPU_ROWS) * CPU_ROWS)]
        last = torch.tensor([read_after[row] - 1 for row in rows], device=device)
        return self._model.logits(hidden[torch.tensor(rows, device=device), last])[: len(prefixes)]

    @torch.inference_mode()
    def expand_rows(self, row: int, counts: Sequence[int], length: int) -> None:
        """Copy each prefilled row, from `row` on, to as many rows as its search needs (`counts`), in the same order.

        `length`: number of prefilled positions.
        """
        first = self._next_cross_kv(row)
        if self._cross_kv_index is not None:
            self._cross_kv_index += [first + window for window, count in enumerate(counts) for _ in range(count)]
        caches = [self._self_kv[..., :length, :]] + ([self._cross_kv] if self._cross_kv_index is None else [])
        stop = row + sum(counts)
        for window in reversed(
            range(len(counts))
        ):  # backwards: a window's rows never begin before the row it was prefilled in
            start, source = stop - counts[window], row + window
            for cache in caches:
                if start != source:
                    cache[:, :, start] = cache[:, :, source]
                cache[:, :, start + 1 : stop] = cache[:, :, start : start + 1]
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
        """Draw the Gumbel noise that makes the row's next token a random sample."""
        noise = self._noise[row]
        noise.exponential_(generator=generator).log_().neg_()

    @torch.inference_mode()
    def step(self, rows: int, length: int, with_noise: bool) -> StepOutput:
        """Decode one more token in each of the first `rows` rows. `length`: positions filled after this step, at most.

        `with_noise`: whether any of the rows is sampled.
        """
        return self._run((self._row_bucket(rows), self._length_bucket(length), with_noise))

    @torch.inference_mode()
    def reorder(self, rows: Sequence[int], sources: Sequence[int], texts: Sequence[Sequence[int]], length: int) -> None:
        """Copy rows `sources` to `rows`, and continue each with its own text (beam search).

        `texts`: the tokens each row has generated, including its next one. `length`: maximum number of positions
        filled so far.
        """
        moved = [(row, source) for row, source in zip(rows, sources, strict=True) if row != source]
        if moved:
            targets, origins = torch.tensor(moved, device=self._model.device).T
            self._self_kv[:, :, targets, :, :length] = self._self_kv[:, :, origins, :, :length]
        targets = torch.tensor(rows, device=self._model.device)
        self._filters.restore(self._history, targets, texts)
        self._tokens[targets, 0] = self._history.last[targets]

    @torch.inference_mode()
    def compact(self, order: Sequence[int]) -> None:
        """Move row `order[i]` to row i for every i. Only rows whose index changes are copied."""
        moved = [row for row, source in enumerate(order) if row != source]
        if moved:
            sources = [order[row] for row in moved]
            state = (self._tokens, self._positions, self._inverse_temperature, self._noise, *self._history.tensors)
            for tensor in state:
                tensor[moved] = tensor[sources]
            self._self_kv[:, :, moved] = self._self_kv[:, :, sources]
            if self._cross_kv_index is None:
                self._cross_kv[:, :, moved] = self._cross_kv[:, :, sources]
        if self._cross_kv_index is not None:
            self._cross_kv_index = self._compact_cross_kv([self._cross_kv_index[row] for row in order])

    @torch.inference_mode()
    def _step(self, shape: Shape) -> StepOutput:
        rows, length, with_noise = shape
        model, history = self._model, self._history.rows(0, rows)
        tokens, positions = self._tokens[:rows], self._positions[:rows]
        self_kv, cross_kv = self._self_kv[:, :, :rows], self._cross_kv[:, :, :rows]
        hidden = model.decode_step(self_kv, cross_kv, tokens, positions, length, self._cross_kv_index)
        logits = model.logits(hidden[:, 0])
        self._filters.apply(logits, history)
        scores = logits * self._inverse_temperature[:rows] + self._noise[:rows] if with_noise else logits
        next_tokens = scores.max(dim=-1).indices  # argmax takes a CPU twice as long
        logprobs = logits.log_softmax(dim=-1)
        history.append(next_tokens, model.card.tokens.first_timestamp)
        tokens.copy_(next_tokens[:, None])
        # Padding rows advance too, and must stay within the cache.
        positions.copy_((positions + 1).clamp(max=model.positions - 1))
        return StepOutput(next_tokens, logprobs.gather(1, next_tokens[:, None])[:, 0], logprobs)

    def _next_cross_kv(self, row: int) -> int:
        """Return the first free index in `_cross_kv`, given that the rows before `row` are in use."""
        return row if self._cross_kv_index is None else max(self._cross_kv_index, default=-1) + 1

    def _compact_cross_kv(self, index: list[int]) -> list[int]:
        """Move the used entries of `_cross_kv` to the front, as few as possible. Return each row's new index."""
        used = set(index)
        free = [entry for entry in range(len(used)) if entry not in used]
        moves = dict(zip(sorted(entry for entry in used if entry >= len(used)), free, strict=True))
        for source, target in moves.items():
            self._cross_kv[:, :, target] = self._cross_kv[:, :, source]
        return [moves.get(entry, entry) for entry in index]

    def _row_bucket(self, rows: int) -> int:
        return next(bucket for bucket in self._row_buckets if bucket >= rows)

    def _length_bucket(self, length: int) -> int:
        return next(bucket for bucket in self._length_buckets if bucket >= length)
