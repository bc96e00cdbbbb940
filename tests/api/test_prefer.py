"""`Prefer` headers: examples of RFC 7240, and any text at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.api.prefer import preferences


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        (["respond-async, wait=10"], {"respond-async": "", "wait": "10"}),
        (["respond-async", "wait=100"], {"respond-async": "", "wait": "100"}),
        (["Respond-Async"], {"respond-async": ""}),
        (["foo; bar"], {"foo": ""}),
        (['foo; bar=""'], {"foo": ""}),
        (["foo=; bar"], {"foo": ""}),
        (['foo=""; bar, wait = 5 '], {"foo": "", "wait": "5"}),
        (['handling="strict, very", respond-async'], {"handling": "strict, very", "respond-async": ""}),
        (['a="b\\"c"'], {"a": 'b"c'}),
        (["wait=1, wait=2"], {"wait": "1"}),
        (["=, respond-async"], {"respond-async": ""}),
        (["a b, respond-async"], {"respond-async": ""}),
        (["", ",,"], {}),
        ([], {}),
    ],
)
def test_headers(headers: list[str], found: dict[str, str]) -> None:
    assert preferences(headers) == found


@given(st.lists(st.text(max_size=50)))
def test_any_text_is_read(headers: list[str]) -> None:
    assert all(name == name.lower() for name in preferences(headers))


@given(st.lists(st.sampled_from(["respond-async", "wait=3", 'x="a,b"', "y;z=1"]), max_size=6))
def test_one_header_or_many_is_the_same(words: list[str]) -> None:
    assert preferences(words) == preferences([", ".join(words)])
