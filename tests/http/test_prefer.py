"""Parsing of `Prefer` headers: examples of RFC 7240, and generated texts."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.http.prefer import parse_prefer


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
def test_parse_examples(headers: list[str], found: dict[str, str]) -> None:
    assert parse_prefer(headers) == found


TOKENS = st.text("!#$%&'*+-.^_`|~09AZaz", min_size=1, max_size=10)
BLANKS = st.text(" \t", max_size=3)


@st.composite
def parts(draw: st.DrawFn, values: st.SearchStrategy[str]) -> tuple[str, str, str]:
    """Return a name, its value, and a header that has both (RFC 7240, section 2)."""
    name, value = draw(TOKENS), draw(values)
    written = value
    if draw(st.booleans()) or not re.fullmatch(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]*", value):
        quoted = "".join(f"\\{char}" if char in '"\\' or draw(st.booleans()) else char for char in value)
        written = f'"{quoted}"'
    equals = f"{draw(BLANKS)}={draw(BLANKS)}" if written or draw(st.booleans()) else ""
    return name, value, f"{name}{equals}{written}"


@given(st.data())
def test_parse_generated_headers(data: st.DataObject) -> None:
    values = TOKENS | st.text(
        st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=10
    )
    chosen = data.draw(st.lists(parts(values), max_size=5))
    elements = []
    for *_, written in chosen:
        parameters = data.draw(st.lists(parts(values).map(lambda part: part[2]) | st.just(""), max_size=3))
        elements.append(f"{data.draw(BLANKS)};{data.draw(BLANKS)}".join([written, *parameters]))
    found = parse_prefer([f"{data.draw(BLANKS)},{data.draw(BLANKS)}".join(elements)])
    expected: dict[str, str] = {}
    for name, value, _ in chosen:
        expected.setdefault(name.lower(), value)
    assert found == expected


@pytest.mark.parametrize("end", ["", "@(", '"', "=", '="', "\\"])
@pytest.mark.parametrize(
    "repeated",
    ["; ", ";", " ", ", ", "a;", "a=;", 'a="', '",', 'a="\\",', 'a;b=",";', '\\"', "a", "=", "a = ; ", " \t"],
)
def test_parsing_time_is_linear(repeated: str, end: str) -> None:
    # More than the headers of a request may have. A quadratic step would take seconds.
    text = f"a{repeated * (64 * 1024 // len(repeated))}{end}"
    start = time.process_time()
    parse_prefer([text])
    assert time.process_time() - start < 0.4


@given(st.lists(st.text(max_size=50)))
def test_any_text_is_parsed(headers: list[str]) -> None:
    assert all(name == name.lower() for name in parse_prefer(headers))


@given(st.lists(st.sampled_from(["respond-async", "wait=3", 'x="a,b"', "y;z=1"]), max_size=6))
def test_joined_headers_are_equal(preferences: list[str]) -> None:
    assert parse_prefer(preferences) == parse_prefer([", ".join(preferences)])
