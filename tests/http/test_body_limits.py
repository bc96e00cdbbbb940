"""Limits of a request's head, and the time that parsing of user-supplied text takes."""

import gc
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from itertools import product

import httpx
import pytest
from pydantic import BaseModel, Field

from serve_app.asgi import create_app
from serve_app.errors import InvalidRequest
from serve_app.fronts.common.signed_uploads import parse_upload_url
from serve_app.fronts.registry import FRONTS
from serve_app.http.body_limits import MAX_HEAD_BYTES, charset_of
from serve_app.http.prefer import parse_prefer
from serve_app.jobs.cursor import from_cursor
from serve_app.jobs.webhooks.sender import retry_after
from serve_app.jobs.webhooks.validation import check_webhook
from serve_app.net.ssrf import MAX_URL_CHARS, check_url
from serve_app.rendering.speaker_labels import openai_speaker_labels, rttm
from serve_app.rendering.subtitles import tsv
from serve_app.schemas.job import ID_PATTERN
from serve_app.schemas.languages import language_code
from serve_app.schemas.request import KnownSpeaker, Webhook
from serve_app.schemas.transcript import Segment, Transcript, Turn
from serve_app.services.jobs import JobService
from serve_app.services.transcription import Service

STARTS = ["", "/", "/v1/async/", 'a/b;"', "http://"]
REPEATED = [
    *("; ", ";", " ", ",", "a;", "a=;", 'a="', '",', 'a="\\",', '\\"', "a", "=", "a = ; ", " \t", "\xa0", "\n"),
    *("/", "a/", "./", "a-", "a.", "%", "0", ":", "@", "[", "generate/", "v1/", "SPEAKER_0"),
]
ENDS = ["", "@(", '"', "/", "\n"]


class IdModel(BaseModel):
    value: str = Field(pattern=ID_PATTERN)


def transcript(text: str) -> Transcript:
    scores = {"temperature": 0, "avg_logprob": -0.1, "compression_ratio": 1, "no_speech_prob": 0}
    segment = Segment(start=0, end=1, text=text, seek=0, tokens=(), speaker="A", **scores)
    return Transcript(task="transcribe", language="en", duration=1, text=text, segments=(segment,))


def check_webhook_of(url: str = "http://example.com", headers: dict[str, str] | None = None) -> None:
    check_webhook(Webhook(url=url, headers=headers or {}))


READERS: dict[str, Callable[[str], object]] = {
    "Prefer": lambda text: parse_prefer([text]),
    "Content-Type": charset_of,
    "Retry-After": lambda text: retry_after(text, datetime.now(UTC)),
    "id": lambda text: IdModel(value=text),
    "cursor": from_cursor,
    "language": language_code,
    "known speaker": lambda text: KnownSpeaker(name=text, reference="x"),
    "url": lambda text: check_url(text, "url"),
    "webhook url": lambda text: check_webhook_of(url=text),
    "webhook header": lambda text: check_webhook_of(headers={text: "x"}),
    "webhook header value": lambda text: check_webhook_of(headers={"x": text}),
    "speaker labels": lambda text: openai_speaker_labels([Turn(start=0, end=1, speaker=text)]),
    "rttm": lambda text: rttm([Turn(start=0, end=1, speaker=text)], "x"),
    "tsv": lambda text: tsv(transcript(text)),
}


def find_slowest(read: Callable[[str], object], characters: int = 2**14) -> tuple[float, str]:
    """Return the CPU seconds of the text that takes longest to read, and the beginning of the text."""
    found = (0.0, "")
    gc.disable()  # a collection would count as the time of a text
    for start, repeated, end in product(STARTS, REPEATED, ENDS):
        text = start + repeated * (characters // len(repeated)) + end
        start = time.thread_time()
        with suppress(InvalidRequest, ValueError):
            read(text)
        found = max(found, (time.thread_time() - start, f"{text[:24]} … {end}"))
    gc.enable()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_parsing_time_of_any_text(name: str) -> None:
    seconds, text = find_slowest(READERS[name])
    assert seconds < 0.1, text


async def test_matching_time_of_any_path(service: Service) -> None:
    app = create_app(service)
    formats = [error_format for front in FRONTS for error_format in front.error_formats]

    def match(path: str) -> None:
        scope = {"type": "http", "method": "GET", "path": path, "root_path": "", "headers": [(b"x-inference-id", b"x")]}
        scope["app"] = app
        for route in app.routes:
            route.matches(dict(scope))
        for error_format in formats:
            error_format.matches(scope)

    match("/v1/jobs")
    seconds, text = find_slowest(match)
    assert seconds < 0.1, text


async def test_parsing_time_of_any_upload_url(service: Service) -> None:
    def read(url: str) -> None:
        check_url(url, "url")
        parse_upload_url(JobService(service, ""), url)

    seconds, text = find_slowest(read, MAX_URL_CHARS - 20)
    assert seconds < 0.1, text


@pytest.mark.parametrize("header", ["a/b;charset*" + "9" * 5000, "a/b;charset*=x''%ff", "a/b;charset", ";", ""])
async def test_default_charset_is_utf_8(header: str) -> None:
    assert charset_of(header) == "utf-8"


@pytest.mark.parametrize("header", ["a/b; CharSet=Latin-1", 'a/b;x=";";charset="latin-1"'])
async def test_charset(header: str) -> None:
    assert charset_of(header) == "latin-1"


@pytest.mark.parametrize("path", ["/v1/jobs", "/generate", "/healthz", "/infer"])
async def test_request_head_over_the_limit(client: httpx.AsyncClient, path: str) -> None:
    long = "a" * (MAX_HEAD_BYTES - 1000)
    for answer in (
        await client.post(path, headers={"Prefer": f"{long}{'a' * 1000}"}),
        await client.post(path, headers=[("x", "a" * 1000)] * 70),
        await client.get(f"{path}?{long}", headers={"x": "a" * 1000}),
    ):
        assert (answer.status_code, str(MAX_HEAD_BYTES) in answer.text) == (431, True), answer.text
    answer = await client.get(path, headers={"Prefer": long})
    assert answer.status_code in (200, 405)
