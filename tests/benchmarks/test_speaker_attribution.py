"""The score of speaker attribution."""

from benchmarks.speaker_attribution import Score, SpokenWord, score, shares


def words_of(text: str, speakers: str) -> list[SpokenWord]:
    return [
        SpokenWord(word, speaker, at, at + 1)
        for at, (word, speaker) in enumerate(zip(text.split(), speakers, strict=True))
    ]


def test_speaker_names_may_differ() -> None:
    assert score(words_of("one two three four", "aabb"), words_of("One, two three four.", "yyxx")) == Score(2, 4, 4, 4)


def test_only_matching_words_count() -> None:
    assert score(words_of("one two three four", "aabb"), words_of("one six three", "xxx")) == Score(2, 4, 2, 1)


def test_speakers_are_matched_one_to_one() -> None:
    hypothesis = score(words_of("one two three four", "aaab"), words_of("one two three four", "xxyz"))
    assert (hypothesis.recognised, hypothesis.right) == (4, 3)


def test_empty_hypothesis() -> None:
    assert score(words_of("one two", "ab"), []) == Score(2, 2, 0, 0)
    assert shares([])["speaker_right"] == 0
