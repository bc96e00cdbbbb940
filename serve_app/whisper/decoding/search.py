"""Greedy decoding, sampling and beam search for one window.

As openai-whisper's GreedyDecoder, BeamSearchDecoder and MaximumLikelihoodRanker (`decoding.py`). Pure: a search takes
log-probabilities and returns the rows to continue from.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from serve_app.whisper.decoding.fallback import repetition_period


@dataclass(frozen=True)
class SearchConfig:
    """Options of a search.

    `rows`: hypotheses decoded in parallel. `temperature`: 0 for greedy decoding and beam search. `is_beam_search`:
    whether the rows are the beams of one search. `patience`, `length_penalty`: as in TranscriptionOptions.
    `max_tokens`: maximum length of the text. `max_speech_tokens`: a text longer than this is stopped if it repeats
    itself. `seed`: of sampling.
    """

    rows: int = 1
    temperature: float = 0.0
    is_beam_search: bool = False
    patience: float = 1.0
    length_penalty: float | None = None
    max_tokens: int = 448
    max_speech_tokens: int = 448
    seed: int = 0


@dataclass(frozen=True)
class Hypothesis:
    """A decoded text: its tokens without the end token, and their log-probabilities.

    `end_logprob`: the log-probability of the end token, null if the text was stopped before it. `is_repetitive`: it was
    stopped because it repeats itself.
    """

    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    end_logprob: float | None = None
    is_repetitive: bool = False

    @property
    def sum_logprob(self) -> float:
        """The sum over all tokens, including the end token."""
        return sum(self.logprobs) + (self.end_logprob or 0.0)

    def score(self, length_penalty: float | None) -> float:
        """Return the score that hypotheses are ranked by, as openai-whisper's MaximumLikelihoodRanker.

        The mean log-probability, or the sum with Google NMT's length penalty (Wu et al. 2016, equation 14).
        """
        length = len(self.tokens)
        if length_penalty is None:
            return self.sum_logprob / max(1, length)
        return self.sum_logprob / float(((5 + length) / 6) ** length_penalty)


class SamplingSearch:
    """Greedy decoding of one row, or independent sampling in several (best_of)."""

    def __init__(self, config: SearchConfig, end: int) -> None:
        self._config, self._end = config, end
        self._tokens: list[list[int]] = [[] for _ in range(config.rows)]
        self._logprobs: list[list[float]] = [[] for _ in range(config.rows)]
        self._hypotheses: list[Hypothesis | None] = [None] * config.rows

    def add_token(self, row: int, token: int, logprob: float) -> bool:
        """Add a row's next token. Return whether the row has finished."""
        tokens, logprobs = self._tokens[row], self._logprobs[row]
        if token == self._end:
            self._hypotheses[row] = Hypothesis(tuple(tokens), tuple(logprobs), logprob)
            return True
        tokens.append(token)
        logprobs.append(logprob)
        is_repetitive = is_endless_repetition(tokens, self._config.max_speech_tokens, self._end)
        if is_repetitive or len(tokens) >= self._config.max_tokens:
            self._hypotheses[row] = Hypothesis(tuple(tokens), tuple(logprobs), is_repetitive=is_repetitive)
        return self._hypotheses[row] is not None

    @property
    def best(self) -> Hypothesis | None:
        """The hypothesis with the highest score, once all rows have finished."""
        finished = [hypothesis for hypothesis in self._hypotheses if hypothesis is not None]
        if len(finished) < len(self._hypotheses):
            return None
        return max(finished, key=lambda hypothesis: hypothesis.score(self._config.length_penalty))


class BeamSearch:
    """Beam search with as many beams as rows."""

    def __init__(self, config: SearchConfig, end: int) -> None:
        self._config, self._end = config, end
        self._max_candidates = max(1, round(config.rows * config.patience))
        self._beams = [Hypothesis()] * config.rows
        self._finished: dict[tuple[int, ...], Hypothesis] = {}
        self.best: Hypothesis | None = None
        """The hypothesis with the highest score, once the search has finished."""

    def advance(self, candidates: Sequence[Sequence[tuple[int, float]]]) -> list[tuple[int, tuple[int, ...]]]:
        """Advance all beams by one token.

        `candidates`: each row's most likely tokens with their log-probabilities, most likely first, one more than
        there are rows. Returns each row's new beam, as the row it continues and its tokens; empty when the search has
        finished.
        """
        extended: dict[tuple[int, ...], tuple[int, Hypothesis]] = {}
        for row, (beam, tokens) in enumerate(zip(self._beams, candidates, strict=True)):
            for token, logprob in tokens:
                if token == self._end:
                    extended[*beam.tokens, token] = row, Hypothesis(beam.tokens, beam.logprobs, logprob)
                else:
                    longer = Hypothesis((*beam.tokens, token), (*beam.logprobs, logprob))
                    extended.setdefault(longer.tokens, (row, longer))  # at the start all beams are equal
        beams: list[tuple[int, Hypothesis]] = []
        finished: dict[tuple[int, ...], Hypothesis] = {}
        for row, hypothesis in sorted(extended.values(), key=lambda item: item[1].sum_logprob, reverse=True):
            if hypothesis.end_logprob is not None:
                finished[hypothesis.tokens] = hypothesis
            else:
                beams.append((row, hypothesis))
                if len(beams) == len(self._beams):
                    break
        for text_tokens, hypothesis in finished.items():
            if len(self._finished) < self._max_candidates:
                self._finished[text_tokens] = hypothesis
        is_complete = not beams or len(beams[0][1].tokens) >= self._config.max_tokens
        if is_complete or len(self._finished) >= self._max_candidates:
            self._finish([beam for _, beam in beams])
            return []
        if is_endless_repetition(beams[0][1].tokens, self._config.max_speech_tokens, self._end):
            self.best = Hypothesis(beams[0][1].tokens, beams[0][1].logprobs, is_repetitive=True)
            return []
        # The vocabulary may be smaller than the number of beams: duplicates do no harm.
        beams += [beams[-1]] * (len(self._beams) - len(beams))
        self._beams = [beam for _, beam in beams]
        return [(row, beam.tokens) for row, beam in beams]

    def _finish(self, unfinished: Sequence[Hypothesis]) -> None:
        """Choose the best hypothesis. If too few have finished, unfinished ones count too (whisper's `finalize`)."""
        hypotheses = list(self._finished.values())
        missing = max(0, self._config.rows - len(hypotheses))
        hypotheses += sorted(unfinished, key=lambda hypothesis: hypothesis.sum_logprob, reverse=True)[:missing]
        self.best = max(hypotheses, key=lambda hypothesis: hypothesis.score(self._config.length_penalty))


def start_search(config: SearchConfig, end: int) -> SamplingSearch | BeamSearch:
    """Return a new search. `end`: the end token."""
    return BeamSearch(config, end) if config.is_beam_search else SamplingSearch(config, end)


def is_endless_repetition(tokens: Sequence[int], max_speech_tokens: int, end: int) -> bool:
    """Return whether a text is longer than speech can be, and repeats itself. Text tokens are those below `end`."""
    return (
        len(tokens) >= max_speech_tokens and repetition_period([token for token in tokens if token < end]) is not None
    )
