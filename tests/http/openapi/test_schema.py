"""Valid and invalid requests that schemathesis generates from the OpenAPI document, sent to the real service.

Each answer must match the document and not be a 5xx. The requests are the same in every run. With
`FUZZ_EXAMPLES=250` in the environment there are more, and random ones (`--hypothesis-seed` chooses them).
"""

import io
import os
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis
import numpy as np
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck
from jsonschema import Draft202012Validator
from pydub import AudioSegment
from schemathesis import checks
from schemathesis.generation.meta import TestPhase
from schemathesis.specs.openapi import checks as of_documents

from serve_app.asgi import create_app
from serve_app.audio import SAMPLE_RATE
from serve_app.audio.decode import AudioDecoder
from serve_app.fronts.verda.errors import INFERENCE_ID
from serve_app.http.openapi.document import operations
from serve_app.settings import AppSettings, LimitSettings
from serve_app.whisper.engine.engine import Engine
from tests.server import ARGS, listening

DATA = Path(__file__).parents[2] / "data"
SETTINGS = hypothesis.settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "10")),
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),  # no shrinking: generated requests are short
)
CHECKS: list[Any] = [
    checks.not_a_server_error,
    of_documents.status_code_conformance,
    of_documents.content_type_conformance,
    of_documents.response_headers_conformance,
    of_documents.response_schema_conformance,
    of_documents.missing_required_header,
    of_documents.unsupported_method,
    of_documents.allow_header_conformance,
]
"""Without `negative_data_rejection`, as numbers may be written as text; without `positive_data_acceptance`, as no
schema describes the content of a URL; and without `ignored_auth`, which has other tests."""

schema = schemathesis.openapi.from_dict(
    create_app(SimpleNamespace(settings=AppSettings())).openapi()  # type: ignore[arg-type]
)


def wav(pcm: np.ndarray) -> bytes:  # type: ignore[type-arg]
    sound = io.BytesIO()
    AudioSegment(pcm.tobytes(), sample_width=2, frame_rate=SAMPLE_RATE, channels=1).export(sound, format="wav")
    return sound.getvalue()


@pytest.fixture(scope="module")
def recording() -> bytes:
    """Return one second of speech."""
    return wav(np.concatenate(list(AudioDecoder(DATA / "es.wav", LimitSettings())))[:SAMPLE_RATE])


@pytest.fixture(scope="module")
def silence() -> bytes:
    """Return a tenth of a second of silence."""
    return wav(np.zeros(SAMPLE_RATE // 10, np.int16))


@pytest.fixture(scope="module")
def audio_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a web server with a second of silence: with speech, the most expensive options would take minutes."""
    folder = tmp_path_factory.mktemp("outside")
    AudioSegment.silent(1000, SAMPLE_RATE).export(folder / "talk.wav", format="wav")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, engines: Mapping[str, Engine], audio_url: str) -> Iterator[str]:
    # Without a webhook `/generate_webhook` answers 500, as Verda's contract requires.
    settings = {"verda": {"webhook": f"{audio_url}/hook"}, "webhooks": {"retry_delays_s": [0]}}
    with listening(tmp_path_factory.mktemp("server"), engines, ARGS | settings) as url:
        yield url


@pytest.fixture
def finished_job(url: str, recording: bytes) -> None:
    """Submit the job that the examples of the document name."""
    answer = requests.post(
        f"{url}/v1/jobs",
        files={"file": recording},
        data={"id": "call-17"},
        headers={"Prefer": "wait=30"},
        timeout=60,
    )
    assert answer.status_code == 200, answer.text


def with_real_audio(body: Any, audio_url: str, recording: bytes) -> Any:
    """Replace URLs and files of a body by real recordings."""
    if isinstance(body, dict):
        return {name: with_real_audio(value, audio_url, recording) for name, value in body.items()}
    if isinstance(body, str) and body.startswith(("http://", "https://")):
        return f"{audio_url}/talk.wav"
    return recording if body == "(a recording)" else body


@pytest.mark.slow
@schema.parametrize()
@SETTINGS
def test_answers_match_the_document(
    case: schemathesis.Case, url: str, audio_url: str, recording: bytes, silence: bytes, finished_job: None
) -> None:
    # Some 3000 requests try each bound of each parameter: a recording without speech needs no engine.
    bounds = case.meta is not None and case.meta.phase.name is TestPhase.COVERAGE
    case.body = with_real_audio(case.body, audio_url, silence if bounds else recording)
    # Without its header, this path belongs to another front, with other answers.
    others = case.operation.path == "/status/{deployment}" and INFERENCE_ID not in case.headers
    case.call_and_validate(base_url=url, checks=[checks.not_a_server_error] if others else CHECKS, timeout=60)


JSON = "application/json"
FORM = "multipart/form-data; boundary=B"


def part(name: str, value: bytes) -> bytes:
    return b'--B\r\nContent-Disposition: form-data; name="' + name.encode() + b'"\r\n\r\n' + value + b"\r\n"


RAW = {
    "nothing": (JSON, b""),
    "no content type": ("", b"{}"),
    "another content type": ("application/xml", b"<url/>"),
    "no such content type": (";;=/", b"{}"),
    "no such charset": ("application/json; charset=utf-99", b"{}"),
    "not JSON": (JSON, b"{url: x}"),
    "half of it": (JSON, b'{"url": "http://x/a", "lang'),
    "no UTF-8": (JSON, b'{"url": "http://x/\xff\xfe"}'),
    "a byte order mark": (JSON, b'\xef\xbb\xbf{"nobody": 1}'),
    "deep": (JSON, b'{"url": ' + b"[" * 100_000),
    "a list": (JSON, b"[[]]"),
    "a NUL": (JSON, b'{"url": "http://x/\\u0000", "URL": "\\u0000", "id": "\\u0000", "nobody\\u0000": 1}'),
    "a surrogate": (JSON, b'{"url": "http://x/\\ud800", "URL": "http://x/\\ud800", "\\udfff": "\\udfff"}'),
    "a huge number": (JSON, b'{"batch_size": ' + b"9" * 5000 + b', "nobody": 1e999999}'),
    "no number": (JSON, b'{"temperature": NaN, "beam_size": -Infinity, "nobody": 1}'),
    "a name of a megabyte": (JSON, b'{"' + b"x" * 2**20 + b'": 1}'),
    "no boundary": ("multipart/form-data", b"--B\r\n\r\n--B--"),
    "another boundary": ("multipart/form-data; boundary=C", part("model", b"whisper-1") + b"--B--"),
    "no end": (FORM, part("model", b"whisper-1")),
    "no name": (FORM, b"--B\r\nContent-Disposition: form-data\r\n\r\nx\r\n--B--"),
    "a field twice": (FORM, part("model", b"whisper-1") * 2 + b"--B--"),
    "a NUL in a form": (FORM, part("model", b"\x00") + part("nobody\x00", b"\x00") + b"--B--"),
    "no UTF-8 in a form": (FORM, part("model", b"\xff\xfe") + b"--B--"),
    "a thousand fields": (FORM, b"".join(part(f"x{n}", b"") for n in range(2000)) + b"--B--"),
    "a form in a URL": ("application/x-www-form-urlencoded", b"url=http%3A%2F%2Fx%2Fa&model=whisper-1"),
}
OPERATIONS_WITH_BODY = [
    (path.format(job_id="call-17", deployment="mine", size="tiny"), operation)
    for path, method, operation in operations(schema.raw_schema)
    if method == "post" and "requestBody" in operation
]
"""The paths that read a body, with their operations."""


@pytest.mark.parametrize("raw", RAW)
def test_malformed_bodies_are_rejected(url: str, raw: str) -> None:
    content_type, content = RAW[raw]
    for path, operation in OPERATIONS_WITH_BODY:
        optional = not operation["requestBody"].get("required", False)
        answer = requests.post(url + path, data=content, headers={"content-type": content_type}, timeout=60)
        # An optional body may be empty.
        assert 400 <= answer.status_code < 500 or (optional and not content), (path, answer.text)
        if answer.status_code >= 400:
            error_schema = operation["responses"][str(answer.status_code)]["content"]["application/json"]["schema"]
            Draft202012Validator(error_schema | {"components": schema.raw_schema["components"]}).validate(answer.json())


def test_unexpected_query_parameters_are_rejected(url: str) -> None:
    for path, operation in OPERATIONS_WITH_BODY:
        answer = requests.post(f"{url}{path}?language=de", json={}, timeout=60)
        assert (answer.status_code, "language" in answer.text) == (400, True), (path, answer.text)
        assert str(answer.status_code) in operation["responses"]
