"""Verda's own client and its tutorial against a real server."""

import threading
import time
from collections.abc import Iterator, Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests
from verda.inference_client import AsyncStatus, InferenceClient, InferenceClientError

from serve_app.whisper.engine.engine import Engine
from tests.fronts.helpers import DATA, EN
from tests.fronts.verda.helpers import ID
from tests.server import ARGS, listening

pytestmark = pytest.mark.slow  # runs the client in a process


@pytest.fixture(scope="module")
def audio_url() -> Iterator[str]:
    """Run a web server with the recordings, for blocking clients."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(DATA))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def status_names_url(tmp_path_factory: pytest.TempPathFactory, engines: Mapping[str, Engine]) -> Iterator[str]:
    """Run the service with the names of states that Verda's client expects."""
    args = ARGS | {"verda": {"status_names": True}, "api_keys": ["secret"]}
    with listening(tmp_path_factory.mktemp("names"), engines, args) as url:
        yield url


def test_verda_client(status_names_url: str, audio_url: str) -> None:
    with InferenceClient("secret", f"{status_names_url}/my-whisper", timeout_seconds=60) as client:
        assert client.health().json() == {"status": "ok"}
        data = {"url": f"{audio_url}/en.mp3"}
        assert client.run_sync(data, path="/generate").output() == {"result": EN}

        execution = client.run(data, path="generate", headers={ID: "mine"})
        assert (execution.id, execution.status()) == ("mine", AsyncStatus.Initialized)
        until = time.monotonic() + 60
        while execution.status() is not AsyncStatus.Completed:
            assert execution.status_json()["Error"] is None
            assert time.monotonic() < until
        assert execution.result() == {"result": EN}

        assert client.run(data, path="generate", no_response=True) is None
        with pytest.raises(InferenceClientError, match="400"):
            client.run_sync({"url": f"{audio_url}/none.mp3"}, path="generate")
        failed = client.run({"url": f"{audio_url}/none.mp3"}, path="generate")
        while failed.status_json()["Status"] != "Completed":
            assert time.monotonic() < until
        assert "404" in failed.status_json()["Error"]
        assert "404" in failed.result()["detail"]


def test_verda_tutorial(threaded_url: str, audio_url: str) -> None:
    """Follow the tutorial, with a deployment's name and numbers for states."""
    payload = {"url": f"{audio_url}/en.mp3"}
    headers = {"Authorization": "Bearer any", "Content-Type": "application/json"}
    prefer = {"Prefer": "respond-async"}
    url = f"{threaded_url}/whisper-example-mp3/generate"
    accepted = requests.post(url, json=payload, headers=headers | prefer, timeout=60)
    assert accepted.status_code == 202
    id_headers = headers | {ID: accepted.json()["Id"]}
    until = time.monotonic() + 60
    while True:
        answer = requests.get(f"{threaded_url}/status/whisper-example-mp3", headers=id_headers, timeout=60)
        assert answer.status_code == 200
        if answer.json()["Status"] == 3:
            break
        assert time.monotonic() < until
    assert answer.json() == {"Id": accepted.headers[ID], "Error": None, "Status": 3}
    text = requests.get(f"{threaded_url}/result/whisper-example-mp3", headers=id_headers, timeout=60)
    assert (text.status_code, text.json()) == (202, {"result": EN})
