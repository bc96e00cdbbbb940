"""Greedy decoding of a batch of windows, each with a prefix of its own."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from serve_app.options import Task
from serve_app.whisper.model import Cache, WhisperModel
from serve_app.whisper.rules import History, Rules


@dataclass(frozen=True)
class Instruction:
    """What to write down for one window.

    `prompt`: tokens to go before, `<|startofprev|>` first, or none. `language`: its token; null: detect it
    (an English-only checkpoint has none).
    """

    prompt: tuple[int, ...] = ()
    language: int | None = None
    task: Task = "transcribe"


@dataclass(frozen=True)
class Decoded:
    """One window's result.

    `language` is its token, null for an English-only checkpoint. `tokens` has neither prefix nor
    end token. `sum_logprob` adds the log-probabilities of all generated tokens, the end token
    among them, as they were after the rules. `no_speech_prob` is read at `<|startoftranscript|>`.
    """

    language: int | None
    tokens: tuple[int, ...]
    sum_logprob: float
    no_speech_prob: float


class Decoder:
    """A model with its decoding rules."""

    def __init__(self, model: WhisperModel) -> None:
        self._model = model
        self._tokens = model.card.tokens
        self._rules = Rules(self._tokens, model.vocabulary, model.device)

    @torch.inference_mode()
    def decode(self, states: Tensor, instructions: Sequence[Instruction]) -> Iterator[tuple[int, Decoded]]:
        """Decode windows from their encoder states `(windows, positions, width)`.

        Yields each window's index and result as soon as it is finished: at its end token, or when
        prefix and text fill the decoder's positions. A finished window makes room at once.
        """
        model, device = self._model, self._model.device
        cache = model.cache(states)
        languages = self._languages(cache, instructions)
        prefixes = [
            (*instruction.prompt, *self._tokens.prefix(language, instruction.task))
            for instruction, language in zip(instructions, languages, strict=True)
        ]
        starts = [len(instruction.prompt) for instruction in instructions]
        logits, no_speech = self._prefill(cache, prefixes, starts)

        windows = list(range(len(prefixes)))
        generated: list[list[int]] = [[] for _ in prefixes]
        positions = torch.tensor([[len(prefix)] for prefix in prefixes], device=device)
        history = History.empty(len(prefixes), device)
        sums = torch.zeros(len(prefixes), device=device)
        while True:
            self._rules.apply(logits, history)
            logprobs, chosen = logits.log_softmax(dim=-1).max(dim=-1)
            sums = sums + logprobs
            finished: list[int] = []
            for row, token in enumerate(chosen.tolist()):  # the step's one wait for the device
                text = generated[windows[row]]
                if token != self._tokens.end:
                    text.append(token)
                if token == self._tokens.end or len(prefixes[windows[row]]) + len(text) >= model.positions:
                    finished.append(row)
            if finished:
                totals = sums.tolist()
                for row in finished:
                    window = windows[row]
                    yield window, Decoded(languages[window], tuple(generated[window]), totals[row], no_speech[window])
                order = _without(finished, len(windows))
                if not order:
                    return
                cache.keep(order)
                windows = [windows[row] for row in order]
                kept = torch.tensor(order, device=device)
                chosen, sums, positions, history = chosen[kept], sums[kept], positions[kept], history.rows(kept)
            length = max(len(prefixes[window]) + len(generated[window]) for window in windows)
            history = history.append(chosen, self._tokens.first_timestamp)
            logits = model.logits(model.step(cache, chosen[:, None], positions, length)[:, 0])
            positions = positions + 1

    def _languages(self, cache: Cache, instructions: Sequence[Instruction]) -> list[int | None]:
        """Each window's language token: as told, or the most probable after `<|startoftranscript|>` alone."""
        told = [instruction.language for instruction in instructions]
        if not self._tokens.multilingual or None not in told:
            return told
        model = self._model
        start = torch.full((len(told), 1), self._tokens.start, device=model.device)
        logits = model.logits(model.step(cache, start, torch.zeros_like(start), 1)[:, 0])
        known = torch.tensor(sorted(self._tokens.languages.values()), device=model.device)
        detected = known[logits[:, known].argmax(dim=-1)].tolist()
        return [found if language is None else language for language, found in zip(told, detected, strict=True)]

    def _prefill(
        self, cache: Cache, prefixes: Sequence[Sequence[int]], starts: Sequence[int]
    ) -> tuple[Tensor, list[float]]:
        """Decode all prefixes at once: the logits after each, and the no-speech probability at its start.

        Shorter prefixes are filled up behind; what that leaves in the cache is overwritten before
        any token sees it.
        """
        model = self._model
        length = max(map(len, prefixes))
        tokens = torch.tensor(
            [[*prefix, *[self._tokens.end] * (length - len(prefix))] for prefix in prefixes], device=model.device
        )
        positions = torch.arange(length, device=model.device).expand(len(prefixes), -1)
        hidden = model.step(cache, tokens, positions, length)
        rows = torch.arange(len(prefixes), device=model.device)
        last = torch.tensor([len(prefix) - 1 for prefix in prefixes], device=model.device)
        start = torch.tensor(starts, device=model.device)
        no_speech = model.logits(hidden[rows, start]).softmax(dim=-1)[:, self._tokens.no_speech]
        return model.logits(hidden[rows, last]), no_speech.tolist()


def _without(finished: Sequence[int], rows: int) -> list[int]:
    """Which row each place gets when some leave: a gap is filled from the end, so that few move."""
    staying = sorted(set(range(rows)) - set(finished))
    count = len(staying)
    movers = [row for row in staying if row >= count]
    return [place if place not in finished else movers.pop() for place in range(count)]
