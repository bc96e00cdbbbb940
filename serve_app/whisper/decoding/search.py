"""Greedy decoding, sampling and beam search for one window.

As in openai-whisper's `decoding.py` (GreedyDecoder, BeamSearchDecoder, MaximumLikelihoodRanker). Pure: it takes
log-probabilities and returns the rows to continue from.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from serve_app.whisper.decoding.fallback import repetition_period


@dataclass(frozen=True)
class SearchConfig:
    """Options of a search.

    `rows`: sequences decoded side by side. `temperature`: 0 for greedy decoding and beam search. `beams`: whether the
    rows are the beams of one search. `patience`, `length_penalty`: as in TranscriptionOptions. `limit`: maximum number
    of tokens. `max_speech_tokens`: beyond this many tokens, a text that repeats itself is stopped. `seed`: of sampling.
    """

    rows: int = 1
    temperature: float = 0.0
    beams: bool = False
    patience: float = 1.0
    length_penalty: float | None = None
    limit: int = 448
    max_speech_tokens: int = 448
    seed: int = 0


@dataclass(frozen=True)
class Hypothesis:
    """Tokens, without the end token, and their log-probabilities; `end`: the end token's, null if it was not reached.

    `is_repetitive`: the text was stopped because it repeats itself.
    """

    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    end: float | None = None
    is_repetitive: bool = False

    @property
    def sum_logprob(self) -> float:
        """The sum over all tokens, including the end token."""
        return sum(self.logprobs) + (self.end or 0.0)

    def score(self, length_penalty: float | None) -> float:
        """Return the score that hypotheses are ranked by, as openai-whisper's MaximumLikelihoodRanker.

        Per token, or with Google NMT's length penalty (Wu et al. 2016, equation 14).
        """
        length = len(self.tokens)
        if length_penalty is None:
            return self.sum_logprob / max(1, length)
        return self.sum_logprob / float(((5 + length) / 6) ** length_penalty)


class SamplingSearch:
    """Independent sequences: one greedy one, or several sampled ones (best_of)."""

    def __init__(self, config: SearchConfig, end: int) -> None:
        self._config, self._end = config, end
        self._tokens: list[list[int]] = [[] for _ in range(config.rows)]
        self._logprobs: list[list[float]] = [[] for _ in range(config.rows)]
        self._texts: list[Hypothesis | None] = [None] * config.rows

    def add_token(self, row: int, token: int, logprob: float) -> bool:
        """Add a row's next token. Return whether the row has ended."""
        tokens, logprobs = self._tokens[row], self._logprobs[row]
        if token == self._end:
            self._texts[row] = Hypothesis(tuple(tokens), tuple(logprobs), logprob)
            return True
        tokens.append(token)
        logprobs.append(logprob)
        is_repetitive = is_endless_repetition(tokens, self._config.max_speech_tokens, self._end)
        if is_repetitive or len(tokens) >= self._config.limit:
            self._texts[row] = Hypothesis(tuple(tokens), tuple(logprobs), is_repetitive=is_repetitive)
        return self._texts[row] is not None

    @property
    def best(self) -> Hypothesis | None:
        """The hypothesis with the highest score, once all rows have ended."""
        ended = [text for text in self._texts if text is not None]
        if len(ended) < len(self._texts):
            return None
        return max(ended, key=lambda text: text.score(self._config.length_penalty))


class BeamSearch:
    """Beam search with as many beams as rows."""

    def __init__(self, config: SearchConfig, end: int) -> None:
        self._plan, self._end = config, end
        self._most = max(1, round(config.rows * config.patience))
        self._live = [Hypothesis()] * config.rows
        self._ended: dict[tuple[int, ...], Hypothesis] = {}
        self.best: Hypothesis | None = None
        """The hypothesis with the highest score, once the search has ended."""

    def advance(self, candidates: Sequence[Sequence[tuple[int, float]]]) -> list[tuple[int, tuple[int, ...]]]:
        """Advance by one token.

        `candidates`: each row's most likely tokens with their log-probabilities, most likely first, one more than
        there are rows. Returns the source row and the tokens of each row's new beam; empty when the search has ended.
        """
        longer: dict[tuple[int, ...], tuple[int, Hypothesis]] = {}
        for row, (text, tokens) in enumerate(zip(self._live, candidates, strict=True)):
            for token, logprob in tokens:
                if token == self._end:
                    longer[*text.tokens, token] = row, Hypothesis(text.tokens, text.logprobs, logprob)
                else:
                    grown = Hypothesis((*text.tokens, token), (*text.logprobs, logprob))
                    longer.setdefault(grown.tokens, (row, grown))  # at the start all rows are equal
        follow: list[tuple[int, Hypothesis]] = []
        ended: dict[tuple[int, ...], Hypothesis] = {}
        for row, text in sorted(longer.values(), key=lambda found: found[1].sum_logprob, reverse=True):
            if text.end is not None:
                ended[text.tokens] = text
            else:
                follow.append((row, text))
                if len(follow) == len(self._live):
                    break
        for ids, text in ended.items():
            if len(self._ended) < self._most:
                self._ended[ids] = text
        over = not follow or len(follow[0][1].tokens) >= self._plan.limit
        if over or len(self._ended) >= self._most:
            self._finish([text for _, text in follow])
            return []
        if is_endless_repetition(follow[0][1].tokens, self._plan.max_speech_tokens, self._end):
            self.best = Hypothesis(follow[0][1].tokens, follow[0][1].logprobs, is_repetitive=True)
            return []
        # The vocabulary is smaller than the number of beams: duplicates do no harm.
        follow += [follow[-1]] * (len(self._live) - len(follow))
        self._live = [text for _, text in follow]
        return [(row, text.tokens) for row, text in follow]

    def _finish(self, live: Sequence[Hypothesis]) -> None:
        """Choose the best hypothesis; if too few have ended, fill up with live ones, as openai-whisper's `finalize`."""
        texts = list(self._ended.values())
        texts += sorted(live, key=lambda text: text.sum_logprob, reverse=True)[: max(0, self._plan.rows - len(texts))]
        self.best = max(texts, key=lambda text: text.score(self._plan.length_penalty))


def start_search(config: SearchConfig, end: int) -> SamplingSearch | BeamSearch:
    """Return a new search. `end`: the end token."""
    return BeamSearch(config, end) if config.beams else SamplingSearch(config, end)


def is_endless_repetition(tokens: Sequence[int], max_speech_tokens: int, end: int) -> bool:
    """Return whether a text is longer than speech can be, and repeats itself. Text tokens are those below `end`."""
    return (
        len(tokens) >= max_speech_tokens and repetition_period([token for token in tokens if token < end]) is not None
    )
