"""Requests that schemathesis makes up from the OpenAPI document, right ones and wrong ones, to the real service.

Every answer must be one that the document speaks of, and none a 5xx. `FUZZ_EXAMPLES` and `FUZZ_SEED` in the
environment ask for more of them, and for others.
"""

import os
import threading
from collections.abc import Iterator
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
from pydub import AudioSegment
from schemathesis import checks
from schemathesis.specs.openapi import checks as of_documents

from serve_app.api.app import create_app
from serve_app.audio import SAMPLE_RATE
from serve_app.audio.decode import Decoding
from serve_app.settings import AppSettings, LimitSettings
from serve_app.whisper.engine import Engine
from tests.server import ARGS, listening

DATA = Path(__file__).parent.parent / "data"
SEED = os.environ.get("FUZZ_SEED")
SETTINGS = hypothesis.settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "10")),
    derandomize=SEED is None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),  # a found request is short enough to be read
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
"""Not: `negative_data_rejection`, as numbers may be written as text, and `positive_data_acceptance`, as no schema says
what lies behind a URL. `ignored_auth` has tests of its own."""

schema = schemathesis.openapi.from_dict(
    create_app(SimpleNamespace(settings=AppSettings())).openapi()  # type: ignore[arg-type]
)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second of speech."""
    path = tmp_path_factory.mktemp("outside") / "talk.wav"
    pcm = np.concatenate(list(Decoding(DATA / "es.wav", LimitSettings())))[:SAMPLE_RATE]
    AudioSegment(pcm.tobytes(), sample_width=2, frame_rate=SAMPLE_RATE, channels=1).export(path, format="wav")
    return path


@pytest.fixture(scope="module")
def outside(recording: Path) -> Iterator[str]:
    """A web server that has it."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(recording.parent))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, engine: Engine, outside: str) -> Iterator[str]:
    # Without a webhook `/generate_webhook` answers 500, as its contract says.
    own = {"verda": {"webhook": f"{outside}/hook"}, "webhooks": {"retry_delays_s": [0]}}
    with listening(tmp_path_factory.mktemp("server"), engine, ARGS | own) as url:
        yield url


@pytest.fixture
def known(url: str, recording: Path) -> None:
    """The job that the document's examples name."""
    answer = requests.post(
        f"{url}/v1/jobs",
        files={"file": recording.read_bytes()},
        data={"id": "call-17"},
        headers={"Prefer": "wait=30"},
        timeout=60,
    )
    assert answer.status_code == 200, answer.text


def real(body: Any, outside: str, recording: Path) -> Any:
    """A body whose URLs lead to the recording, and whose file is it."""
    if isinstance(body, dict):
        return {name: real(value, outside, recording) for name, value in body.items()}
    if isinstance(body, str) and body.startswith(("http://", "https://")):
        return f"{outside}/{recording.name}"
    return recording.read_bytes() if body == "(a recording)" else body


@schema.parametrize()
@SETTINGS
def test_every_answer_is_in_the_document(
    case: schemathesis.Case, url: str, outside: str, recording: Path, known: None
) -> None:
    case.body = real(case.body, outside, recording)
    case.call_and_validate(base_url=url, checks=CHECKS, timeout=60)
