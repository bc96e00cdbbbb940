"""The decoder: continuous batching of sequences, with prefill and one step at a time for all rows."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from serve_app.schemas.request import Task
from serve_app.whisper.decoding.kv_slots import GraphCapture, KVSlots, StepOutput
from serve_app.whisper.decoding.search import BeamSearch, Hypothesis, SamplingSearch, SearchConfig, start_search
from serve_app.whisper.model.whisper_model import WhisperModel


@dataclass(frozen=True)
class DecodeRequest:
    """The options that one window is decoded with.

    `prompt`: tokens of the previous text, starting with `<|startofprev|>`, or empty. `language`: the language token,
    null to detect it, or for an English-only checkpoint. `suppressed`: tokens that are never allowed.
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

    `language`: the language token, null for an English-only checkpoint. `prefix`: all tokens before the text.
    `no_speech_prob`: the probability of `<|nospeech|>` after `<|startoftranscript|>`.
    """

    language: int | None
    prefix: tuple[int, ...]
    hypothesis: Hypothesis
    no_speech_prob: float


@dataclass(eq=False)
class SequenceState:
    """A sequence that is being decoded: the text of one window. `result` is null until it has ended."""

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
    """A row of the batch: one beam or sample of a sequence."""

    sequence: SequenceState
    beam_index: int  # among the rows of its sequence
    length: int  # positions filled
    generator: torch.Generator | None
    ended: bool = False


class Decoder:
    """Decodes sequences in a fixed number of rows. The rows of a sequence that ends are free for the next one at once.

    `lookahead_steps`: steps that are launched before the output of the first one is read, so that the device never
    waits for Python. The end of a text is then noticed that many steps late, which does not change it.
    `capture_graphs`: see `KVSlots`.
    """

    def __init__(
        self,
        model: WhisperModel,
        rows: int,
        lookahead_steps: int | None = None,
        capture_graphs: GraphCapture | None = None,
    ) -> None:
        self.rows = rows
        self._model = model
        self._tokens = model.card.tokens
        self._language_tokens = torch.tensor(sorted(self._tokens.languages.values()), device=model.device)
        self._slots = KVSlots(model, rows, capture_graphs)
        self._lookahead_steps = (
            (1 if model.device.type == "cuda" else 0) if lookahead_steps is None else lookahead_steps
        )
        self._rows: list[_Row] = []
        self._pending_steps: deque[_PendingStep] = deque()

    @property
    def free_rows(self) -> int:
        """Number of rows that are not in use."""
        return self.rows - len(self._rows)

    @property
    def has_work(self) -> bool:
        """Return whether there are sequences to decode or outputs to read."""
        return bool(self._rows or self._pending_steps)

    @torch.inference_mode()
    def add_sequences(self, states: Tensor, requests: Sequence[DecodeRequest]) -> list[SequenceState]:
        """Prefill the prefixes of windows and start decoding them. Enough rows must be free.

        `states`: encoder states `(windows, positions, width)`, one per request.
        """
        first = len(self._rows)
        counts = [request.search.rows for request in requests]
        self._slots.set_cross_attention(first, states)
        languages = [request.language for request in requests]
        detect_language = self._tokens.is_multilingual and None in languages
        if detect_language and any(request.prompt for request in requests):
            # A prompt would bias language detection towards its own language.
            logits = self._slots.prefill(first, [(self._tokens.start,)] * len(counts), [0] * len(counts))
            languages, detect_language = self._detect_languages(languages, logits), False
        prompts = [(*request.prompt, self._tokens.start) for request in requests]
        if detect_language:
            logits = self._slots.prefill(first, prompts, [0] * len(prompts))
            languages = self._detect_languages(languages, logits)
        prefixes = [
            (*request.prompt, *self._tokens.prefix(language, request.task, request.with_timestamps))
            for request, language in zip(requests, languages, strict=True)
        ]
        # The last token of the prefix is not prefilled: it is the input of the first step.
        if detect_language:
            rest = [prefix[len(prompt) : -1] for prompt, prefix in zip(prompts, prefixes, strict=True)]
            self._slots.prefill(first, rest, list(map(len, prompts)))
        else:
            # In English-only models the start token may be the last one, and its logits are read all the same.
            lengths = list(map(len, prompts))
            prefilled = [
                prefix[: max(length, len(prefix) - 1)] for prefix, length in zip(prefixes, lengths, strict=True)
            ]
            logits = self._slots.prefill(first, prefilled, [0] * len(prompts), lengths)
        no_speech = logits.softmax(dim=-1)[:, self._tokens.no_speech].tolist()
        self._slots.expand_rows(first, counts, max(map(len, prefixes)))
        sequences = []
        for index, (request, prefix) in enumerate(zip(requests, prefixes, strict=True)):
            search = replace(
                request.search, max_tokens=min(request.search.max_tokens, self._model.positions - len(prefix))
            )
            sequence = SequenceState(languages[index], prefix, no_speech[index], start_search(search, self._tokens.end))
            sequences.append(sequence)
            for beam_index in range(search.rows):
                generator = None
                if search.temperature:
                    generator = torch.Generator(self._model.device).manual_seed(search.seed + beam_index)
                self._slots.start_row(
                    *(len(self._rows), prefix[-1], len(prefix) - 1),
                    *(request.with_timestamps, request.suppressed, search.temperature),
                )
                self._rows.append(_Row(sequence, beam_index, len(prefix) - 1, generator))
        return sequences

    @torch.inference_mode()
    def step(self) -> list[SequenceState]:
        """Decode one more token in each row. Return the sequences that have ended."""
        if self._rows:
            self._launch_step()
        has_beam_search = any(isinstance(row.sequence.search, BeamSearch) for row in self._rows)
        ended: list[SequenceState] = []
        while len(self._pending_steps) > (self._lookahead_steps if self._rows and not has_beam_search else 0):
            ended += self._process_outputs(self._pending_steps.popleft())
        return ended

    def abort(self, sequence: SequenceState) -> None:
        """Stop decoding a sequence and free its rows."""
        for row in self._rows:
            row.ended = row.ended or row.sequence is sequence
        self._compact()

    def _launch_step(self) -> None:
        with_noise = False
        for index, row in enumerate(self._rows):
            if row.generator is not None:
                self._slots.sample_noise(index, row.generator)
                with_noise = True
        length = min(max(row.length for row in self._rows) + 1, self._model.positions)
        output = self._slots.step(len(self._rows), length, with_noise)
        for row in self._rows:
            row.length += 1
        self._pending_steps.append(_PendingStep(list(self._rows), output))

    def _process_outputs(self, pending_step: "_PendingStep") -> list[SequenceState]:
        """Add the tokens of a step to their sequences. Return those that have ended."""
        ended: list[SequenceState] = []
        beam_rows: dict[SequenceState, dict[int, int]] = {}  # row by beam index
        for index, (row, token, logprob) in enumerate(pending_step.read_tokens()):
            if row.ended:
                continue
            if isinstance(row.sequence.search, BeamSearch):
                beam_rows.setdefault(row.sequence, {})[row.beam_index] = index
            elif row.sequence.search.add_token(row.beam_index, token, logprob):
                row.ended = True
                if row.sequence.search.best:
                    ended.append(row.sequence)
        rows_by_sequence = {sequence: [rows[beam] for beam in sorted(rows)] for sequence, rows in beam_rows.items()}
        ended += self._advance_beams(rows_by_sequence, pending_step.output)
        self._compact()
        return ended

    def _advance_beams(
        self, rows_by_sequence: Mapping[SequenceState, Sequence[int]], output: StepOutput
    ) -> list[SequenceState]:
        """Advance beam searches by one token. Return those that have ended.

        `rows_by_sequence`: the rows of each search in the output, by beam index.
        """
        ended: list[SequenceState] = []
        moves: list[tuple[int, int, tuple[int, ...]]] = []
        candidates = _top_candidates(output.logprobs, rows_by_sequence.values())
        for sequence, rows in rows_by_sequence.items():
            assert isinstance(sequence.search, BeamSearch)
            beams = sequence.search.advance([candidates[row] for row in rows])
            current_rows = sorted(
                (index for index, row in enumerate(self._rows) if row.sequence is sequence), key=self._beam_index
            )
            if beams:
                moves += [
                    (row, current_rows[source], text) for row, (source, text) in zip(current_rows, beams, strict=True)
                ]
            else:
                ended.append(sequence)
                for index in current_rows:
                    self._rows[index].ended = True
        if moves:
            rows, sources, texts = zip(*moves, strict=True)
            self._slots.reorder(rows, sources, texts, max(self._rows[row].length for row in rows))
        return ended

    def _beam_index(self, index: int) -> int:
        return self._rows[index].beam_index

    def _compact(self) -> None:
        ended = [index for index, row in enumerate(self._rows) if row.ended]
        if ended:
            order = _fill_gaps(ended, len(self._rows))
            self._slots.compact(order)
            self._rows = [self._rows[row] for row in order]

    def _detect_languages(self, requested: Sequence[int | None], logits: Tensor) -> list[int | None]:
        """Return each window's language token: the requested one, or the most likely after `<|startoftranscript|>`."""
        detected = self._language_tokens[logits[:, self._language_tokens].argmax(dim=-1)].tolist()
        return [found if language is None else language for language, found in zip(requested, detected, strict=True)]


class _PendingStep:
    """The output of a step, while it is copied from the device."""

    def __init__(self, rows: list[_Row], output: StepOutput) -> None:
        self.output = output
        self._rows = rows
        outputs = [tensor[: len(rows)] for tensor in (output.tokens, output.logprob)]
        self._copied: torch.cuda.Event | None = None
        if outputs[0].device.type == "cuda":
            # Pinned memory, so that the copy is asynchronous.
            pinned = [torch.empty_like(tensor, device="cpu", pin_memory=True) for tensor in outputs]
            outputs = [buffer.copy_(tensor, non_blocking=True) for buffer, tensor in zip(pinned, outputs, strict=True)]
            self._copied = torch.cuda.Event()
            self._copied.record()
        self._tokens, self._logprobs = outputs

    def read_tokens(self) -> list[tuple[_Row, int, float]]:
        """Wait for the copy. Return each row with its token and the token's log-probability."""
        if self._copied is not None:
            self._copied.synchronize()
        return list(zip(self._rows, self._tokens.tolist(), self._logprobs.tolist(), strict=True))


def _top_candidates(logprobs: Tensor, searches: Iterable[Sequence[int]]) -> dict[int, list[tuple[int, float]]]:
    """Return the most likely tokens of each row of the beam searches, one more than the search has rows.

    `logprobs`: `(rows, vocabulary)`. `searches`: the rows of each search.
    """
    candidates: dict[int, list[tuple[int, float]]] = {}
    by_beams: dict[int, list[int]] = {}
    for rows in searches:
        by_beams.setdefault(len(rows), []).extend(rows)
    for beams, rows in by_beams.items():
        selected = logprobs[: len(rows)] if rows == list(range(len(rows))) else logprobs[rows]
        top = selected.topk(beams + 1)
        for row, tokens, values in zip(rows, top.indices.tolist(), top.values.tolist(), strict=True):
            candidates[row] = list(zip(tokens, values, strict=True))
    return candidates


def _fill_gaps(ended: Sequence[int], rows: int) -> list[int]:
    """Return the new order of rows when some have ended. Gaps are filled from the end, so that few rows move."""
    remaining = sorted(set(range(rows)) - set(ended))
    movers = [row for row in remaining if row >= len(remaining)]
    return [row if row not in ended else movers.pop() for row in range(len(remaining))]
