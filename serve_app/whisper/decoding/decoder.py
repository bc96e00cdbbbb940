"""Continuous batching of window sequences: a sequence that ends frees its rows for the next one at once."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from serve_app.schemas.request import Task
from serve_app.whisper.decoding.kv_slots import KVSlots, Record, StepOutput
from serve_app.whisper.decoding.search import BeamSearch, Hypothesis, SamplingSearch, SearchConfig, start_search
from serve_app.whisper.model.whisper_model import WhisperModel


@dataclass(frozen=True)
class DecodeRequest:
    """The options one window is decoded with.

    `prompt`: previous-text tokens, starting with `<|startofprev|>`, or none. `language`: its token; null: detect it
    (an English-only checkpoint has none). `suppressed`: tokens that are never allowed.
    """

    prompt: tuple[int, ...] = ()
    language: int | None = None
    task: Task = "transcribe"
    with_timestamps: bool = True
    suppressed: tuple[int, ...] = ()
    search: SearchConfig = field(default_factory=SearchConfig)


@dataclass(frozen=True)
class DecodingResult:
    """The result of decoding one window.

    `language`: its token, null for an English-only checkpoint. `prefix`: the tokens before the text.
    `no_speech_prob`: the probability of `<|nospeech|>` after `<|startoftranscript|>`.
    """

    language: int | None
    prefix: tuple[int, ...]
    text: Hypothesis
    no_speech_prob: float


@dataclass(eq=False)
class SequenceState:
    """The state of a window that is being decoded; `result` is null until it has ended."""

    language: int | None
    prefix: tuple[int, ...]
    no_speech_prob: float
    search: SamplingSearch | BeamSearch

    @property
    def result(self) -> DecodingResult | None:
        best = self.search.best
        return None if best is None else DecodingResult(self.language, self.prefix, best, self.no_speech_prob)


@dataclass(eq=False)
class _Row:
    attempt: SequenceState
    beam_index: int  # among the rows of its sequence
    length: int  # positions filled
    generator: torch.Generator | None
    ended: bool = False


class Decoder:
    """Decodes sequences in a fixed number of rows.

    `lookahead_steps`: steps that are launched on the device before the output of the first is read, so that it never
    waits for Python. The end of a text is then noticed that many steps late, which changes no text. `record`: see
    `KVSlots`.
    """

    def __init__(
        self, model: WhisperModel, rows: int, lookahead_steps: int | None = None, record: Record | None = None
    ) -> None:
        self.size = rows
        self._model = model
        self._tokens = model.card.tokens
        self._known = torch.tensor(sorted(self._tokens.languages.values()), device=model.device)
        self._slots = KVSlots(model, rows, record)
        self._lookahead_steps = (
            (1 if model.device.type == "cuda" else 0) if lookahead_steps is None else lookahead_steps
        )
        self._rows: list[_Row] = []
        self._pending_steps: deque[_PendingStep] = deque()

    @property
    def free_rows(self) -> int:
        """Number of rows that are not in use."""
        return self.size - len(self._rows)

    @property
    def has_work(self) -> bool:
        """Whether a call of `step` would do anything."""
        return bool(self._rows or self._pending_steps)

    @torch.inference_mode()
    def add_sequences(self, states: Tensor, requests: Sequence[DecodeRequest]) -> list[SequenceState]:
        """Prefill windows with encoder states `(windows, positions, width)`. Enough rows must be free."""
        first = len(self._rows)
        counts = [request.search.rows for request in requests]
        self._slots.set_cross_attention(first, states)
        languages = [request.language for request in requests]
        unknown = self._tokens.is_multilingual and None in languages
        if unknown and any(request.prompt for request in requests):
            # A prompt would bias language detection towards its own language.
            alone = self._slots.prefill(first, [(self._tokens.start,)] * len(counts), [0] * len(counts))
            languages, unknown = self._detect(languages, alone), False
        starts = [(*request.prompt, self._tokens.start) for request in requests]
        logits = self._slots.prefill(first, starts, [0] * len(starts))
        if unknown:
            languages = self._detect(languages, logits)
        no_speech = logits.softmax(dim=-1)[:, self._tokens.no_speech].tolist()
        steering = [
            self._tokens.prefix(language, request.task, request.with_timestamps)
            for request, language in zip(requests, languages, strict=True)
        ]
        if self._tokens.is_multilingual:
            self._slots.prefill(first, [tokens[1:-1] for tokens in steering], list(map(len, starts)))
        # The last token of the prefix is not prefilled: the first step reads it.
        self._slots.expand_rows(first, counts, max(map(len, starts)) + max(map(len, steering)))
        attempts = []
        for index, request in enumerate(requests):
            prefix = (*request.prompt, *steering[index])
            search = replace(request.search, limit=min(request.search.limit, self._model.positions - len(prefix)))
            attempt = SequenceState(languages[index], prefix, no_speech[index], start_search(search, self._tokens.end))
            attempts.append(attempt)
            for place in range(search.rows):
                generator = None
                if search.temperature:
                    generator = torch.Generator(self._model.device).manual_seed(search.seed + place)
                # The first step reads the prefix's last token.
                self._slots.start_row(
                    *(len(self._rows), prefix[-1], len(prefix) - 1),
                    *(request.with_timestamps, request.suppressed, search.temperature),
                )
                self._rows.append(_Row(attempt, place, len(prefix) - 1, generator))
        return attempts

    @torch.inference_mode()
    def step(self) -> list[SequenceState]:
        """Decode one more token in every row. Return the sequences that were found to have ended."""
        if self._rows:
            self._launch_step()
        coupled = any(isinstance(row.attempt.search, BeamSearch) for row in self._rows)
        ended: list[SequenceState] = []
        while len(self._pending_steps) > (self._lookahead_steps if self._rows and not coupled else 0):
            ended += self._process_outputs(self._pending_steps.popleft())
        return ended

    def abort(self, attempt: SequenceState) -> None:
        """Stop decoding a sequence, and free its rows."""
        for row in self._rows:
            row.ended = row.ended or row.attempt is attempt
        self._compact()

    def _launch_step(self) -> None:
        drawn = False
        for index, row in enumerate(self._rows):
            if row.generator is not None:
                self._slots.sample_noise(index, row.generator)
                drawn = True
        length = min(max(row.length for row in self._rows) + 1, self._model.positions)
        outcome = self._slots.step(len(self._rows), length, drawn)
        for row in self._rows:
            row.length += 1
        self._pending_steps.append(_PendingStep(list(self._rows), outcome))

    def _process_outputs(self, reading: "_PendingStep") -> list[SequenceState]:
        """Add the tokens of a step to their sequences. Return those that have ended."""
        ended: list[SequenceState] = []
        beams: dict[SequenceState, dict[int, int]] = {}
        for index, (row, token, logprob) in enumerate(reading.tokens()):
            if row.ended:
                continue
            if isinstance(row.attempt.search, BeamSearch):
                beams.setdefault(row.attempt, {})[row.beam_index] = index
            elif row.attempt.search.add_token(row.beam_index, token, logprob):
                row.ended = True
                if row.attempt.search.best:
                    ended.append(row.attempt)
        stepped = {attempt: [places[place] for place in sorted(places)] for attempt, places in beams.items()}
        ended += self._advance_beams(stepped, reading.outcome)
        self._compact()
        return ended

    def _advance_beams(
        self, stepped: Mapping[SequenceState, Sequence[int]], outcome: StepOutput
    ) -> list[SequenceState]:
        """Advance beam searches, each in the rows `stepped` of the output, by one token. Return those that ended."""
        ended: list[SequenceState] = []
        moves: list[tuple[int, int, tuple[int, ...]]] = []
        candidates = _top_candidates(outcome.logprobs, stepped.values())
        for attempt, rows in stepped.items():
            assert isinstance(attempt.search, BeamSearch)
            follow = attempt.search.advance([candidates[row] for row in rows])
            own = sorted(
                (index for index, row in enumerate(self._rows) if row.attempt is attempt), key=self._beam_index_of
            )
            if follow:
                moves += [(row, own[source], text) for row, (source, text) in zip(own, follow, strict=True)]
            else:
                ended.append(attempt)
                for index in own:
                    self._rows[index].ended = True
        if moves:
            into, sources, texts = zip(*moves, strict=True)
            self._slots.reorder(into, sources, texts, max(self._rows[row].length for row in into))
        return ended

    def _beam_index_of(self, index: int) -> int:
        return self._rows[index].beam_index

    def _compact(self) -> None:
        ended = [index for index, row in enumerate(self._rows) if row.ended]
        if ended:
            order = _fill_gaps(ended, len(self._rows))
            self._slots.compact(order)
            self._rows = [self._rows[row] for row in order]

    def _detect(self, requested: Sequence[int | None], logits: Tensor) -> list[int | None]:
        """Return each window's language token: as requested, or the most likely after `<|startoftranscript|>`."""
        detected = self._known[logits[:, self._known].argmax(dim=-1)].tolist()
        return [found if language is None else language for language, found in zip(requested, detected, strict=True)]


class _PendingStep:
    """The output of a step while it is copied from the device."""

    def __init__(self, rows: list[_Row], outcome: StepOutput) -> None:
        self.outcome = outcome
        self._rows = rows
        parts = [part[: len(rows)] for part in (outcome.tokens, outcome.logprob)]
        self._arrived: torch.cuda.Event | None = None
        if parts[0].device.type == "cuda":
            # Pinned memory, so that the copy is asynchronous.
            pinned = [torch.empty_like(part, device="cpu", pin_memory=True) for part in parts]
            parts = [room.copy_(part, non_blocking=True) for room, part in zip(pinned, parts, strict=True)]
            self._arrived = torch.cuda.Event()
            self._arrived.record()
        self._tokens, self._logprobs = parts

    def tokens(self) -> list[tuple[_Row, int, float]]:
        """Return each row with its token and the token's log-probability."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return list(zip(self._rows, self._tokens.tolist(), self._logprobs.tolist(), strict=True))


def _top_candidates(logprobs: Tensor, searches: Iterable[Sequence[int]]) -> dict[int, list[tuple[int, float]]]:
    """Return the most likely tokens of each row of some beam searches, one more than the search has rows."""
    found: dict[int, list[tuple[int, float]]] = {}
    by_beams: dict[int, list[int]] = {}
    for rows in searches:
        by_beams.setdefault(len(rows), []).extend(rows)
    for beams, rows in by_beams.items():
        own = logprobs[: len(rows)] if rows == list(range(len(rows))) else logprobs[rows]
        likeliest = own.topk(beams + 1)
        for row, tokens, values in zip(rows, likeliest.indices.tolist(), likeliest.values.tolist(), strict=True):
            found[row] = list(zip(tokens, values, strict=True))
    return found


def _fill_gaps(ended: Sequence[int], rows: int) -> list[int]:
    """Return the row that each place gets when some rows end: gaps are filled from the end, so that few rows move."""
    staying = sorted(set(range(rows)) - set(ended))
    movers = [row for row in staying if row >= len(staying)]
    return [place if place not in ended else movers.pop() for place in range(len(staying))]
