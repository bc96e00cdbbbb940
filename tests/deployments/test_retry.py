"""Calls that are sent again."""

import pytest

from deployments.retry import _ReplayFilter
from serve_app.errors import Unavailable
from serve_app.schemas.transcript import TextDelta


def test_a_transcriber_that_takes_over_says_nothing_twice() -> None:
    heard: list[str] = []
    tell = _ReplayFilter(lambda said: heard.append(said.text))
    for run in (["one", " two"], ["one"], ["one", " two", " three"]):
        tell.begin()
        for text in run:
            tell(TextDelta(text=text))
    assert heard == ["one", " two", " three"]
    tell.begin()
    with pytest.raises(Unavailable, match="something else"):
        tell(TextDelta(text="eins"))
