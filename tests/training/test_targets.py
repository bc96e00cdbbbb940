"""The target tokens of a window."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import WhisperTokenizer

from training.whisper_nano.compose import Composer, Shape, Window
from training.whisper_nano.dataset import SpeechDataset
from training.whisper_nano.digits import LANGUAGES, spell
from training.whisper_nano.targets import IGNORED, NO_WORD, Sequence, Targets, position_labels
from training.whisper_nano.tokenizer import build_tokenizer

TOKENIZER = build_tokenizer()
TARGETS = Targets(TOKENIZER)


@pytest.fixture(scope="session")
def tokenizer() -> WhisperTokenizer:
    return TOKENIZER


def build_sequence(dataset: SpeechDataset, seed: int, prompted: float = 0.0) -> tuple[Window, Sequence, list[int]]:
    """Return a window, its sequence, and the tokens after its task."""
    composer = Composer(dataset, seed)
    window = composer.window(Shape(1200, 1000, 99, 0.5))
    sequence = TARGETS.sequence(composer, window, 100, prompted)
    return window, sequence, sequence.tokens[sequence.tokens.index(TARGETS.start) + 3 :]


@settings(deadline=None)
@given(seed=st.integers(0, 10**6))
def test_text_tokens_match_the_words(small_dataset: SpeechDataset, seed: int) -> None:
    window, sequence, tokens = build_sequence(small_dataset, seed)
    language = "en" if TARGETS.translate in sequence.tokens else window.language
    assert TOKENIZER.decode(tokens, skip_special_tokens=True).split() == spell(
        language, [word.digit for word in window.words]
    )
    assert tokens[-1] == TARGETS.end


@settings(deadline=None)
@given(seed=st.integers(0, 10**6))
def test_timestamp_labels_are_the_segment_edges(small_dataset: SpeechDataset, seed: int) -> None:
    window, sequence, tokens = build_sequence(small_dataset, seed)
    times = [label for label in sequence.labels if label >= TARGETS.first_timestamp]
    if tokens[0] == TARGETS.no_timestamps or not window.segments:
        assert not times
        return
    edges = [frame for segment in window.segments for frame in (segment[0].start, segment[-1].end)]
    assert [(token - TARGETS.first_timestamp - 100) * 2 for token in times] == pytest.approx(edges, abs=1.01)
    assert times == sorted(times)


@settings(deadline=None)
@given(seed=st.integers(0, 10**6))
def test_prompt_is_not_in_the_labels(small_dataset: SpeechDataset, seed: int) -> None:
    _, sequence, _ = build_sequence(small_dataset, seed, prompted=1.0)
    start = sequence.tokens.index(TARGETS.start)
    assert sequence.tokens[0] == TARGETS.previous
    assert 1 <= start <= 224
    assert set(sequence.labels[: start + 1]) == {IGNORED}
    assert len(sequence.tokens) <= 448


@settings(deadline=None)
@given(seed=st.integers(0, 10**6))
def test_alignment_spans_cover_all_positions(small_dataset: SpeechDataset, seed: int) -> None:
    """The alignment head's spans follow one another without gap or overlap, from the first word to the end."""
    window, sequence, _ = build_sequence(small_dataset, seed)
    spans = [(first, last) for first, last in sequence.spans()[2].tolist() if last > first]
    if not window.words:
        assert not spans
        return
    assert all(right[0] <= left[1] <= right[0] + 1 for left, right in pairwise(spans))
    assert spans[0][0] <= int(window.words[0].start / 2)
    assert spans[-1][1] == 600


def test_silence_is_labelled_no_speech(small_dataset: SpeechDataset) -> None:
    silent = next(found for seed in range(500) if not (found := build_sequence(small_dataset, seed))[0].words)
    sequence = silent[1]
    assert sequence.labels[1] == TARGETS.no_speech
    assert sequence.tokens[1] == TARGETS.languages[silent[0].language]
    assert not {TARGETS.words[language][digit] for language in LANGUAGES for digit in range(10)} & {*sequence.tokens}


def test_position_labels_name_the_neighbours(small_dataset: SpeechDataset) -> None:
    window = next(w for seed in range(50) if len((w := build_sequence(small_dataset, seed)[0]).words) >= 3)
    labels = position_labels(window)
    numbers = [LANGUAGES.index(window.language) * 10 + word.digit for word in window.words]
    middle = int((window.words[1].start + window.words[1].end) / 4)
    assert labels[middle].tolist() == [numbers[1], numbers[0], NO_WORD, numbers[2]]
    assert labels[-1].tolist() == [NO_WORD, IGNORED, IGNORED, IGNORED]
