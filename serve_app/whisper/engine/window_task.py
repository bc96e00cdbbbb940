"""The state of one window in the engine: its decoding attempts (temperature fallback), and its clips.

A window is first decoded as a whole. Parts of it that contain speech but got no text are decoded again, each as a clip.
"""

import zlib
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from serve_app.audio import SAMPLE_RATE
from serve_app.audio.spans import Span, clip_spans, total_length
from serve_app.errors import InvalidRequest
from serve_app.schemas.request import MODEL_DEFAULT_TOKENS, TranscriptionOptions
from serve_app.schemas.transcript import TokenLogprob
from serve_app.whisper.decoding.decoder import DecodeRequest, DecodingResult
from serve_app.whisper.decoding.fallback import fallback_verdict, max_speech_tokens, trim_repetition
from serve_app.whisper.decoding.search import SearchConfig
from serve_app.whisper.engine.seek import MAX_CLIPS, remaining_clips, speech_end, uncovered_speech
from serve_app.whisper.model.whisper_model import WhisperModel
from serve_app.whisper.window_text import (
    WindowSegment,
    WindowText,
    compression_ratio,
    next_prompt_tokens,
    window_segments,
)

MIN_LANGUAGE_DETECTION_S = 5.0
"""In a second or two of audio, Whisper often detects English whatever the language."""


@dataclass(frozen=True)
class DecodingAttempt:
    """The text decoded at one temperature. `passed`: whether it is accepted."""

    result: DecodingResult
    tokens: tuple[int, ...]
    segments: tuple[WindowSegment, ...]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    passed: bool

    @property
    def rank(self) -> tuple[bool, bool, float]:
        """The key that attempts are ranked by: accepted, then not repetitive, then the highest log-probability."""
        return self.passed, not self.result.hypothesis.is_repetitive, self.avg_logprob


@dataclass(eq=False)
class WindowTask:
    """A window, its options, and what has been decoded of it so far.

    `pcm`: 16 kHz mono. `prompt`: tokens of hotwords and prompt. `previous`: tokens of the text before the window.
    `speech`: detected speech in samples of the window; null if not known, then the first text is the window's.
    `clip`: the current clip; `remaining_clips`: those to decode after it; `texts`: the texts of finished clips.
    `states` and `attempts` belong to `clip`; the encoder states are kept until its last attempt.
    """

    pcm: NDArray[np.int16]
    options: TranscriptionOptions
    prompt: tuple[int, ...]
    previous: tuple[int, ...]
    model: WhisperModel
    speech: tuple[Span, ...] | None = None
    future: "Future[WindowText]" = field(default_factory=Future)
    states: Tensor | None = None
    attempts: list[DecodingAttempt] = field(default_factory=list)
    clip: Span = field(init=False)
    remaining_clips: list[Span] = field(default_factory=list)
    texts: list[WindowText] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.clip = Span(0, len(self.pcm))

    @property
    def audio(self) -> NDArray[np.int16]:
        """The samples of the current clip."""
        return self.pcm[self.clip.start : self.clip.end]

    @property
    def seconds(self) -> float:
        """The length of the current clip."""
        return self.clip.length / SAMPLE_RATE

    @property
    def temperature(self) -> float:
        """The temperature of the next attempt."""
        return self.options.temperatures[len(self.attempts)]

    @property
    def rows(self) -> int:
        """The number of rows that the next attempt needs."""
        return self.options.best_of if self.temperature else self.options.beam_size or 1

    def decode_request(self) -> DecodeRequest:
        """Return the request for the next attempt."""
        options, card = self.options, self.model.card
        model_default = card.tokens.suppressed if MODEL_DEFAULT_TOKENS in options.suppress_tokens else ()
        search = SearchConfig(
            rows=self.rows,
            temperature=self.temperature,
            is_beam_search=self.temperature == 0 and self.rows > 1,
            patience=options.patience,
            length_penalty=options.length_penalty,
            max_tokens=options.max_new_tokens or card.positions,
            max_speech_tokens=max_speech_tokens(self.seconds),
            # Derived from the audio alone, so that sampling is batch-invariant.
            seed=zlib.crc32(self.audio.tobytes(), round(1000 * self.temperature)),
        )
        return DecodeRequest(
            prompt=card.tokens.prompt(card.max_prompt_tokens, self.prompt, self._previous_tokens()),
            language=card.tokens.languages.get(self._language or ""),
            task=options.task,
            with_timestamps=options.timestamps != "none",
            suppressed=(*model_default, *(token for token in options.suppress_tokens if token != MODEL_DEFAULT_TOKENS)),
            search=search,
        )

    def add_result(self, result: DecodingResult) -> bool:
        """Record the result of an attempt. Return whether it was the last one."""
        tokens = result.hypothesis.tokens
        if result.hypothesis.is_repetitive:
            tokens = trim_repetition(tokens, self.model.card.tokens.end)
        token_logprobs = self._token_logprobs(result) if self.options.logprobs else None
        segments = window_segments(tokens, self.model.card.tokens, self.seconds, self.model.detokenize, token_logprobs)
        avg_logprob = result.hypothesis.sum_logprob / (len(result.hypothesis.tokens) + 1)
        ratio = compression_ratio("".join(segment.text for segment in segments).strip())
        speech_s = None if self.speech is None else total_length(clip_spans(self.speech, self.clip)) / SAMPLE_RATE
        verdict = fallback_verdict(
            self.options,
            avg_logprob,
            ratio,
            result.no_speech_prob,
            result.hypothesis.is_repetitive,
            speech_s,
            bool(self.texts),
        )
        if verdict == "silence":
            tokens, segments = (), ()
        passed = verdict != "failed"
        self.attempts.append(DecodingAttempt(result, tokens, segments, self.temperature, avg_logprob, ratio, passed))
        return self.is_finished

    @property
    def is_finished(self) -> bool:
        """Return whether no further attempt is needed."""
        return bool(self.attempts) and (
            self.attempts[-1].passed or len(self.attempts) == len(self.options.temperatures)
        )

    @property
    def best_attempt(self) -> DecodingAttempt:
        """The attempt whose text is returned."""
        return max(self.attempts, key=lambda attempt: attempt.rank)

    @property
    def has_unknown_end(self) -> bool:
        """Return whether the text has no timestamp at its end: then its end is found by word timestamps."""
        tokens, special = self.best_attempt.tokens, self.model.card.tokens
        return self._decodes_remaining_clips and bool(tokens) and tokens[-1] < special.first_timestamp

    def finish_clip(self, text: WindowText, end_s: float | None = None) -> bool:
        """Record the text of the current clip and move to the next one. Return whether there is a next one.

        `end_s`: the end of the last word in seconds of the clip, if known.
        """
        text = text.without_symbol_segments
        remaining: list[Span] = []
        if self._decodes_remaining_clips:
            bounded = _with_end(text, end_s) if end_s is not None and self.has_unknown_end else text
            covered = [_segment_span(segment, self.clip.start) for segment in bounded.segments]
            remaining = remaining_clips(self.clip, covered, self.speech or ())
            text = bounded if remaining else text
        self.texts.append(text.moved(self.clip.start / SAMPLE_RATE))
        self.remaining_clips += remaining
        if not self.remaining_clips or len(self.texts) == MAX_CLIPS:
            return False
        self.clip, self.states, self.attempts = self.remaining_clips.pop(0), None, []
        return True

    def result(self) -> WindowText:
        """Return the window's text, once all clips have been decoded. Segments are extended to their speech's end."""
        first, *rest = map(self._extend_to_speech, self.texts) if self._decodes_remaining_clips else self.texts
        return first.model_copy(update={"rest": tuple(rest)})

    def _extend_to_speech(self, text: WindowText) -> WindowText:
        starts = [_segment_span(segment, 0).start for clip_text in self.texts for segment in clip_text.segments]
        segments = []
        for segment in text.segments:
            span = _segment_span(segment, 0)
            next_start = min((start for start in starts if start >= span.end), default=len(self.pcm))
            end = speech_end(span, next_start, self.speech or ())
            if end > span.end:
                segment = segment.model_copy(update={"end": round(end / SAMPLE_RATE, 3)})
            segments.append(segment)
        return text.model_copy(update={"segments": tuple(segments)})

    @property
    def uncovered(self) -> list[Span]:
        """Detected speech without text, once all clips have been decoded."""
        covered = [_segment_span(segment, 0) for segment, _ in self.result().timed_segments]
        return uncovered_speech(self.speech or (), covered)

    @property
    def _decodes_remaining_clips(self) -> bool:
        """Return whether speech without text is decoded again: not if the client limits the number of tokens."""
        return bool(self.speech) and self.options.max_new_tokens is None

    @property
    def _language(self) -> str | None:
        """The language of the clip; null if it is to be detected.

        Further clips have the language of the window's first text, unless they are long enough to detect one.
        """
        if self.options.language is not None or not self.texts or self.seconds > MIN_LANGUAGE_DETECTION_S:
            return self.options.language
        return self.texts[0].language

    def _previous_tokens(self) -> Sequence[int]:
        """Return the tokens of the text before the clip, if it is part of the prompt."""
        if not self.options.condition_on_previous_text:
            return self.previous if not self.texts else ()
        previous: Sequence[int] = self.previous
        for text in self.texts:
            previous = next_prompt_tokens(previous, text)
        return previous

    def clip_text(self) -> WindowText:
        """Return the text of the current clip, without word timestamps."""
        best, special = self.best_attempt, self.model.card.tokens
        language = best.result.language
        return WindowText(
            language="en" if language is None else special.language_code(language),
            text="".join(segment.text for segment in best.segments).strip(),
            segments=best.segments,
            tokens=best.tokens,
            avg_logprob=best.avg_logprob,
            no_speech_prob=best.result.no_speech_prob,
            compression_ratio=best.compression_ratio,
            temperature=best.temperature,
        )

    def _token_logprobs(self, result: DecodingResult) -> list[TokenLogprob]:
        return [
            TokenLogprob(
                token=self.model.detokenize([token]), logprob=logprob, bytes=tuple(self.model.token_bytes(token))
            )
            for token, logprob in zip(result.hypothesis.tokens, result.hypothesis.logprobs, strict=True)
        ]


def _with_end(text: WindowText, end_s: float) -> WindowText:
    """Return the text with its last segment ending at `end_s` seconds, if that is earlier."""
    if not text.segments:
        return text
    *before, last = text.segments
    last = last.model_copy(update={"end": min(last.end, max(end_s, last.start))})
    return text.model_copy(update={"segments": (*before, last)})


def _segment_span(segment: WindowSegment, first: int) -> Span:
    """Return a segment's times in samples, offset by `first`."""
    return Span(first + round(segment.start * SAMPLE_RATE), first + round(segment.end * SAMPLE_RATE))


def prompt_tokens(model: WhisperModel, options: TranscriptionOptions) -> tuple[int, ...]:
    """Return the prompt tokens: all hotwords, then as many tokens from the end of the prompt as fit.

    Raises InvalidRequest for too many hotwords.
    """
    limit = model.card.max_prompt_tokens
    hotwords = model.tokenize(options.hotwords or "")
    if len(hotwords) > limit:
        raise InvalidRequest(f"hotwords must be at most {limit} tokens long, not {len(hotwords)}", "hotwords")
    return model.card.tokens.prompt(limit, hotwords, model.tokenize(options.prompt or ""))[1:]
