"""The rows of a decoder: fixed memory in which texts are written side by side, each at its own place."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from serve_app.whisper.decoding.cuda_graphs import CudaGraphs
from serve_app.whisper.decoding.logit_filters import LogitFilters, TokenHistory
from serve_app.whisper.model.whisper_model import WhisperModel

LENGTHS = (64, 128, 256)
"""Steps look at so many positions of a row, or at all: a few sizes, so that each can be a CUDA graph."""

CPU_ROWS = 4
"""On a CPU, steps compute a multiple of so many rows. On AMD's a float32 product of another number of rows goes through
another kernel, which rounds otherwise: a text would depend on its company. On Intel's see `reproducible`."""


Shape = tuple[int, int, bool]
"""Of a step: rows, positions looked at, and whether tokens are drawn."""


@dataclass(frozen=True)
class StepOutput:
    """What a step made of each row: its next token, that token's log-probability, and all log-probabilities.

    Shapes (rows,), (rows,) and (rows, vocabulary); valid until the next step.
    """

    tokens: Tensor
    logprob: Tensor
    logprobs: Tensor


Record = Callable[[Callable[[Shape], StepOutput], Iterable[Shape]], Callable[[Shape], StepOutput]]


class KVSlots:
    """`rows` rows; those in use come first. Everything stays where it is, so that steps can be CUDA graphs.

    `record` makes them so, on a CUDA device: it is given the step and every shape there will ever be. A graph reads the
    keys and values of a row's sound at a place of its own. Elsewhere the rows of a window share them, which are then
    read from memory once a step for all its beams.
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
        self._rules = LogitFilters(model.card.tokens, model.vocabulary, device)
        self._history = TokenHistory.empty(capacity, model.vocabulary, device)
        self._tokens = torch.zeros(capacity, 1, dtype=torch.long, device=device)
        self._positions = torch.zeros(capacity, 1, dtype=torch.long, device=device)
        self._inverse_temperature = torch.ones(capacity, 1, device=device)
        self._noise = torch.zeros(capacity, model.vocabulary, device=device)
        self._self_kv = model.new_kv_cache(capacity, model.positions)
        self._cross_kv = model.new_kv_cache(capacity, model.sound_positions)
        self._cross_kv_index: list[int] | None = (
            [] if record is None else None
        )  # the place in `_heard` of each row in use
        self._run: Callable[[Shape], StepOutput] = self._step
        if record is not None:
            self._run = record(self._step, product(self._row_buckets, self._length_buckets, (False, True)))

    @torch.inference_mode()
    def set_cross_attention(self, row: int, states: Tensor) -> None:
        """Give rows from `row` on, which are free, the sound of a window each: states `(windows, positions, width)`."""
        place = self._next_cross_kv(row)
        for index, sound in enumerate(states):
            self._model.write_cross_kv(sound[None], self._cross_kv[:, :, place + index : place + index + 1])

    @torch.inference_mode()
    def prefill(self, row: int, prefixes: Sequence[Sequence[int]], starts: Sequence[int]) -> Tensor:
        """Have rows from `row` on, which have heard a window each, read tokens, the first at `starts`.

        Returns the logits after each row's last one.

        Shorter ones are filled up behind; what that leaves is overwritten before any token sees it.
        """
        device, stop = self._model.device, row + len(prefixes)
        # A multiple of four, so that the products do not depend on how many are read: see CPU_ROWS.
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
        """Give the windows that rows from `row` on have heard and read so many rows each, in their order.

        `length`: positions read.
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
        """Let a row write from its prefix's last token on. `heat`: the temperature, 0 for the likeliest token."""
        self._tokens[row] = token
        self._positions[row] = position
        self._inverse_temperature[row] = 1 / temperature if temperature else 1.0
        self._noise[row] = 0
        self._rules.reset(self._history.rows(row, row + 1), with_timestamps, suppressed)

    @torch.inference_mode()
    def sample_noise(self, row: int, generator: torch.Generator) -> None:
        """Have the row's next token drawn: Gumbel noise makes the likeliest token a random one."""
        noise = self._noise[row]
        noise.exponential_(generator=generator).log_().neg_()

    @torch.inference_mode()
    def step(self, rows: int, length: int, with_noise: bool) -> StepOutput:
        """Write one more token in the first `rows` rows, none of which is as long as `length` yet."""
        return self._run((self._row_bucket(rows), self._length_bucket(length), with_noise))

    @torch.inference_mode()
    def reorder(self, rows: Sequence[int], sources: Sequence[int], texts: Sequence[Sequence[int]], length: int) -> None:
        """Each of some rows becomes a copy of a row of its window, and goes on from a text of its own.

        `texts` are what they have generated, the next token among it. `length`: positions filled so far, at most.
        """
        moved = [(row, source) for row, source in zip(rows, sources, strict=True) if row != source]
        if moved:
            into, out_of = torch.tensor(moved, device=self._model.device).T
            self._self_kv[:, :, into, :, :length] = self._self_kv[:, :, out_of, :, :length]
        into = torch.tensor(rows, device=self._model.device)
        self._rules.restore(self._history, into, texts)
        self._tokens[into, 0] = self._history.last[into]

    @torch.inference_mode()
    def compact(self, order: Sequence[int]) -> None:
        """Row i becomes what row `order[i]` was; only rows that move are copied."""
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
        said, heard = self._self_kv[:, :, :rows], self._cross_kv[:, :, :rows]
        hidden = model.decode_step(said, heard, tokens, positions, length, self._cross_kv_index)
        logits = model.logits(hidden[:, 0])
        self._rules.apply(logits, history)
        weights = logits * self._inverse_temperature[:rows] + self._noise[:rows] if drawn else logits
        chosen = weights.max(dim=-1).indices  # argmax takes a CPU twice as long
        logprobs = logits.log_softmax(dim=-1)
        history.append(chosen, model.card.tokens.first_timestamp)
        tokens.copy_(chosen[:, None])
        # Rows beyond those in use step along; they must not run off their end.
        positions.copy_((positions + 1).clamp(max=model.positions - 1))
        return StepOutput(chosen, logprobs.gather(1, chosen[:, None])[:, 0], logprobs)

    def _next_cross_kv(self, row: int) -> int:
        """The first free place in `_heard`, when rows up to `row` are in use."""
        return row if self._cross_kv_index is None else max(self._cross_kv_index, default=-1) + 1

    def _compact_cross_kv(self, sounds: list[int]) -> list[int]:
        """Move sounds so that those in use come first, the fewest that it takes; each row's new one."""
        used = set(sounds)
        free = [place for place in range(len(used)) if place not in used]
        moves = dict(zip(sorted(place for place in used if place >= len(used)), free, strict=True))
        for source, place in moves.items():
            self._cross_kv[:, :, place] = self._cross_kv[:, :, source]
        return [moves.get(place, place) for place in sounds]

    def _row_bucket(self, rows: int) -> int:
        return next(count for count in self._row_buckets if count >= rows)

    def _length_bucket(self, length: int) -> int:
        return next(most for most in self._length_buckets if most >= length)
