"""How the text of one window is found: the likeliest token each time, tokens drawn at random, or beams.

As in openai-whisper's `decoding.py` (GreedyDecoder, BeamSearchDecoder, MaximumLikelihoodRanker). Pure: a
device says how probable tokens are, and is told which to go on from.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from serve_app.whisper.decoding.fallback import repetition_period


@dataclass(frozen=True)
class SearchConfig:
    """How to search.

    `rows`: texts written side by side. `temperature`: 0, or the one tokens are drawn at. `beams`: whether the
    rows are one beam search. `patience`, `length_penalty`: as in TranscriptionOptions. `limit`: tokens at most.
    `speakable`: more tokens than can be said in the window; a text that goes on beyond and repeats itself is cut.
    `seed`: of the draws.
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
    """Tokens without the end token, and the log-probability of each; `end` is the end token's, null without one."""

    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    end: float | None = None
    is_repetitive: bool = False

    @property
    def sum_logprob(self) -> float:
        """Of all tokens, the end token among them."""
        return sum(self.logprobs) + (self.end or 0.0)

    def score(self, length_penalty: float | None) -> float:
        """OpenAI's ranking: per token, or by Google NMT's penalty (Wu et al. 2016, equation 14)."""
        length = len(self.tokens)
        if length_penalty is None:
            return self.sum_logprob / max(1, length)
        return self.sum_logprob / float(((5 + length) / 6) ** length_penalty)


class SamplingSearch:
    """Texts that each go their own way: one greedy one, or some that are drawn."""

    def __init__(self, config: SearchConfig, end: int) -> None:
        self._config, self._end = config, end
        self._tokens: list[list[int]] = [[] for _ in range(config.rows)]
        self._logprobs: list[list[float]] = [[] for _ in range(config.rows)]
        self._texts: list[Hypothesis | None] = [None] * config.rows

    def add_token(self, row: int, token: int, logprob: float) -> bool:
        """The next token of one text; whether that was its last."""
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
        """The likeliest text, once all have ended."""
        ended = [text for text in self._texts if text is not None]
        if len(ended) < len(self._texts):
            return None
        return max(ended, key=lambda text: text.score(self._config.length_penalty))


class BeamSearch:
    """The likeliest texts so far, pruned to as many as there are rows at every token."""

    def __init__(self, config: SearchConfig, end: int) -> None:
        self._plan, self._end = config, end
        self._most = max(1, round(config.rows * config.patience))
        self._live = [Hypothesis()] * config.rows
        self._ended: dict[tuple[int, ...], Hypothesis] = {}
        self.best: Hypothesis | None = None
        """The winner, once the search is over."""

    def advance(self, candidates: Sequence[Sequence[tuple[int, float]]]) -> list[tuple[int, tuple[int, ...]]]:
        """Each row's likeliest tokens (one more than there are rows, likeliest first) with their log-probabilities.

        Returns what each row goes on from: the row it copies, and its text. Nothing when the search is over.
        """
        longer: dict[tuple[int, ...], tuple[int, Hypothesis]] = {}
        for row, (text, tokens) in enumerate(zip(self._live, candidates, strict=True)):
            for token, logprob in tokens:
                if token == self._end:
                    longer[*text.tokens, token] = row, Hypothesis(text.tokens, text.logprobs, logprob)
                else:
                    grown = Hypothesis((*text.tokens, token), (*text.logprobs, logprob))
                    longer.setdefault(grown.tokens, (row, grown))  # equal rows, at the start, make equal texts
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
        # A vocabulary too small for so many beams: some write the same, which changes nothing.
        follow += [follow[-1]] * (len(self._live) - len(follow))
        self._live = [text for _, text in follow]
        return [(row, text.tokens) for row, text in follow]

    def _finish(self, live: Sequence[Hypothesis]) -> None:
        """Too few ended: the likeliest of the others make up the number, as OpenAI's `finalize` has it."""
        texts = list(self._ended.values())
        texts += sorted(live, key=lambda text: text.sum_logprob, reverse=True)[: max(0, self._plan.rows - len(texts))]
        self.best = max(texts, key=lambda text: text.score(self._plan.length_penalty))


def start_search(config: SearchConfig, end: int) -> SamplingSearch | BeamSearch:
    """A search of the kind that is planned, from the beginning. `end`: the end token."""
    return BeamSearch(config, end) if config.beams else SamplingSearch(config, end)


def is_endless_repetition(tokens: Sequence[int], speakable: int, end: int) -> bool:
    """Whether a text is longer than can be said, and repeats itself; text tokens are those below `end`."""
    return len(tokens) >= speakable and repetition_period([token for token in tokens if token < end]) is not None
