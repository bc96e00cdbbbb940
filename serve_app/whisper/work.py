"""One window's way through the engine: what is asked of the decoder, try by try, and what is made of its answers."""

import zlib
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from serve_app.audio import SAMPLE_RATE
from serve_app.errors import InvalidRequest
from serve_app.options import MODELS_OWN, TranscriptionOptions
from serve_app.whisper.decoder import Decoded, Instruction
from serve_app.whisper.gates import judge, speakable, without_repetition
from serve_app.whisper.model import WhisperModel
from serve_app.whisper.search import Plan
from serve_app.whisper.text import TokenLogprob, WindowSegment, WindowText, compression_ratio, window_segments


@dataclass(frozen=True)
class Try:
    """A text that was found, and what Whisper's thresholds say of it."""

    decoded: Decoded
    tokens: tuple[int, ...]
    segments: tuple[WindowSegment, ...]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    good: bool

    @property
    def rank(self) -> tuple[bool, bool, float]:
        """When no try is good, the one least like a loop, then the likeliest."""
        return self.good, not self.decoded.text.runaway, self.avg_logprob


@dataclass(eq=False)
class Work:
    """A window, its options, and the tries at it so far.

    `pcm`: 16 kHz mono. `told`, `previous`: tokens that go before its text. `states`: the encoder's,
    kept from the first try to the last.
    """

    pcm: NDArray[np.int16]
    options: TranscriptionOptions
    told: tuple[int, ...]
    previous: tuple[int, ...]
    model: WhisperModel
    future: "Future[WindowText]" = field(default_factory=Future)
    states: Tensor | None = None
    tries: list[Try] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return len(self.pcm) / SAMPLE_RATE

    @property
    def temperature(self) -> float:
        """Of the next try."""
        return self.options.temperatures[len(self.tries)]

    @property
    def rows(self) -> int:
        """Texts to be written side by side at the next try."""
        return self.options.best_of if self.temperature else self.options.beam_size

    def instruction(self) -> Instruction:
        """What the decoder is to do next."""
        options, card = self.options, self.model.card
        own = card.tokens.suppressed if MODELS_OWN in options.suppress_tokens else ()
        plan = Plan(
            rows=self.rows,
            temperature=self.temperature,
            beams=self.temperature == 0 and options.beam_size > 1,
            patience=options.patience,
            length_penalty=options.length_penalty,
            limit=options.max_new_tokens or card.positions,
            speakable=speakable(self.seconds),
            # Of what is heard alone, so that the same request draws the same text in any company.
            seed=zlib.crc32(self.pcm.tobytes(), round(1000 * self.temperature)),
        )
        return Instruction(
            prompt=card.tokens.prompt(card.prompt_positions, self.told, self.previous),
            language=None if options.language is None else card.tokens.languages.get(options.language),
            task=options.task,
            timed=options.timestamps != "none",
            suppressed=(*own, *(token for token in options.suppress_tokens if token != MODELS_OWN)),
            plan=plan,
        )

    def take(self, decoded: Decoded) -> bool:
        """Note a try's outcome; whether it was the last."""
        tokens = decoded.text.tokens
        if decoded.text.runaway:
            tokens = without_repetition(tokens, self.model.card.tokens.end)
        likely = self._logprobs(decoded) if self.options.logprobs else None
        segments = window_segments(tokens, self.model.card.tokens, self.seconds, self.model.text, likely)
        average = decoded.text.sum_logprob / (len(decoded.text.tokens) + 1)
        repetition = compression_ratio("".join(segment.text for segment in segments).strip())
        verdict = judge(self.options, average, repetition, decoded.no_speech_prob, decoded.text.runaway)
        if verdict == "silence":
            tokens, segments = (), ()
        good = verdict != "failed"
        self.tries.append(Try(decoded, tokens, segments, self.temperature, average, repetition, good))
        return self.ended

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to try."""
        return bool(self.tries) and (self.tries[-1].good or len(self.tries) == len(self.options.temperatures))

    @property
    def best(self) -> Try:
        """The try to answer with."""
        return max(self.tries, key=lambda found: found.rank)

    def text(self) -> WindowText:
        """The answer, without words."""
        best, special = self.best, self.model.card.tokens
        language = best.decoded.language
        return WindowText(
            language="en" if language is None else special.language_of(language),
            text="".join(segment.text for segment in best.segments).strip(),
            segments=best.segments,
            tokens=best.tokens,
            avg_logprob=best.avg_logprob,
            no_speech_prob=best.decoded.no_speech_prob,
            compression_ratio=best.compression_ratio,
            temperature=best.temperature,
        )

    def _logprobs(self, decoded: Decoded) -> list[TokenLogprob]:
        return [
            TokenLogprob(token=self.model.text([token]), logprob=logprob, bytes=tuple(self.model.utf8(token)))
            for token, logprob in zip(decoded.text.tokens, decoded.text.logprobs, strict=True)
        ]


def told_tokens(model: WhisperModel, options: TranscriptionOptions) -> tuple[int, ...]:
    """Hotwords and prompt; of the prompt the last tokens that fit. Raises InvalidRequest for too many hotwords."""
    room = model.card.prompt_positions
    hotwords = model.tokenize(options.hotwords or "")
    if len(hotwords) > room:
        raise InvalidRequest(f"hotwords are {len(hotwords)} tokens: {room} fit before a window's text", "hotwords")
    return model.card.tokens.prompt(room, hotwords, model.tokenize(options.prompt or ""))[1:]
