"""Operations on spans, compared with sets of samples."""

from hypothesis import given
from hypothesis import strategies as st

from serve_app.audio.spans import Span, clip_spans, subtract_spans, total_length

spans = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)).map(lambda pair: Span(pair[0], sum(pair))))


def without_overlaps(found: list[Span]) -> list[Span]:
    """Return the spans in order, without those that overlap an earlier one."""
    selected: list[Span] = []
    for span in sorted(found):
        if not selected or span.start >= selected[-1].end:
            selected.append(span)
    return selected


def samples(found: list[Span] | tuple[Span, ...]) -> set[int]:
    return {sample for span in found for sample in range(*span)}


@given(spans.map(without_overlaps), spans)
def test_subtract_spans(some: list[Span], others: list[Span]) -> None:
    left = subtract_spans(some, others)
    assert samples(left) == samples(some) - samples(others)
    assert list(left) == without_overlaps(list(left))
    assert all(span.length > 0 for span in left)
    assert total_length(left) == len(samples(left))


@given(spans.map(without_overlaps), st.tuples(st.integers(0, 80), st.integers(1, 40)))
def test_clip_spans(some: list[Span], within: tuple[int, int]) -> None:
    whole = Span(within[0], sum(within))
    assert samples(clip_spans(some, whole)) == samples(some) & samples([whole])
