"""Two models in one service: the model of a request decides its engine, languages and windows."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_app.services.transcription import Service
from serve_app.settings import WhisperSettings
from serve_app.whisper.engine.engine import Engine
from serve_app.whisper.model.whisper_model import WhisperModel
from tests.fronts.helpers import DATA, wait_for_job
from tests.server import ARGS, german

DE = "zwei sieben eins acht zwei acht"
URL = "http://127.0.0.1:9/a.mp3"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return german(tmp_path_factory.mktemp("german"))


@pytest.fixture(scope="module")
def engines(engine: Engine, checkpoint: Path) -> Iterator[Mapping[str, Engine]]:
    second = Engine(WhisperModel.load(str(checkpoint), WhisperSettings(device="cpu", dtype="float32")))
    yield {"whisper-nano": engine, "german": second}
    second.close()


@pytest.fixture
def args(checkpoint: Path) -> dict[str, Any]:
    second = {"id": "german", "aliases": ["de", "whisper-small"], "checkpoint": str(checkpoint), "tier": "gpuflex"}
    return ARGS | {"models": [second]}


class WindowCounts:
    """Counts the windows that each engine transcribed since the last call."""

    def __init__(self, engines: Mapping[str, Engine]) -> None:
        self._engines = engines
        self._counts = self._current_counts()

    def _current_counts(self) -> dict[str, int]:
        return {model: engine.stats().windows for model, engine in self._engines.items()}

    def since_last_call(self) -> dict[str, int]:
        before, self._counts = self._counts, self._current_counts()
        return {model: done - before[model] for model, done in self._counts.items()}


@pytest.fixture
def window_counts(engines: Mapping[str, Engine]) -> WindowCounts:
    return WindowCounts(engines)


def speech(times: int = 1) -> dict[str, bytes]:
    return {"file": (DATA / "de.opus").read_bytes() * times}


async def test_all_model_names_are_listed(client: httpx.AsyncClient) -> None:
    names = ["whisper-nano", "whisper-1", "german", "de", "whisper-small"]
    assert [model["id"] for model in (await client.get("/v1/models")).json()["data"]] == names
    for name in names:
        assert (await client.get(f"/v1/models/{name}")).json()["id"] == name


async def test_unknown_model_error_lists_the_models(client: httpx.AsyncClient) -> None:
    for answer in (
        await client.get("/v1/models/gpt-9"),
        await client.post("/v1/audio/transcriptions", files=speech(), data={"model": "gpt-9"}),
        await client.post("/v1/jobs", files=speech(), data={"model": "gpt-9"}),
    ):
        error = answer.json()["error"]
        assert (answer.status_code, error["param"], error["code"]) == (404, "model", "model_not_found")
        assert "whisper-nano, whisper-1, german, de, whisper-small" in error["message"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "model"), [("whisper-1", "whisper-nano"), ("german", "german"), ("de", "german")])
async def test_transcription_uses_the_requested_model(
    client: httpx.AsyncClient, window_counts: WindowCounts, name: str, model: str
) -> None:
    for stream in ("false", "true"):
        data = {"model": name, "stream": stream}
        answer = await client.post("/v1/audio/transcriptions", files=speech(), data=data)
        assert (answer.status_code, DE in answer.text) == (200, True), answer.text
        assert {served for served, done in window_counts.since_last_call().items() if done} == {model}
    (job, *_) = (await client.get("/v1/jobs")).json()["data"]
    assert (job["model"], job["options"]["model"]) == (model, name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "model"), [(None, "whisper-nano"), ("whisper-nano", "whisper-nano"), ("whisper-small", "german")]
)
async def test_job_names_its_model(
    client: httpx.AsyncClient, window_counts: WindowCounts, name: str | None, model: str
) -> None:
    answer = await client.post("/v1/jobs", files=speech(), data={} if name is None else {"model": name})
    assert answer.status_code == 202, answer.text
    job = await wait_for_job(client, answer.json()["id"])
    assert (job["status"], job["model"], job["options"]["model"]) == ("succeeded", model, name)
    assert {served for served, done in window_counts.since_last_call().items() if done} == {model}


@pytest.mark.slow
async def test_windows_have_the_length_of_the_model(client: httpx.AsyncClient, window_counts: WindowCounts) -> None:
    done = {}
    for model in ("whisper-nano", "german"):
        answer = await client.post("/v1/audio/transcriptions", files=speech(10), data={"model": model})
        assert answer.status_code == 200, answer.text
        done |= {served: count for served, count in window_counts.since_last_call().items() if count}
    print(f"windows of the same recording: {done}")
    assert done["whisper-nano"] >= 2 * done["german"]  # of 10 and of 30 seconds


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/jobs", {"url": URL, "model": "de", "language": "fr"}),
        ("/infer", {"url": URL, "model": "german", "language": "fr"}),
        ("/generate", {"url": URL, "model": "german", "language": "fr"}),
        (
            "/v1/async/ent/tiyarofs/1/openai/whisper-small?serviceTier=gpuflex",
            {"URL": URL, "input": {"language": "fr"}},
        ),
    ],
)
async def test_unsupported_language_is_rejected(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> None:
    answer = await client.post(path, json=body)
    assert (answer.status_code, "german does not support french" in answer.text) == (400, True), answer.text
    allowed = json.loads(json.dumps(body).replace('"fr"', '"de"'))
    answer = await client.post(path, json=allowed)
    assert "german does not support" not in answer.text


async def test_default_model_supports_other_languages(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/jobs", json={"url": URL, "language": "fr"})
    assert (answer.status_code, answer.json()["model"]) == (202, "whisper-nano")


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("whisper-small?serviceTier=gpuflex", "german"),
        ("whisper-small", "german"),
        ("whisper-large?serviceTier=gpuflex", "german"),
        ("whisper-large", "whisper-nano"),
    ],
)
async def test_tiyaro_path_and_tier_select_the_model(client: httpx.AsyncClient, path: str, model: str) -> None:
    answer = await client.post(f"/v1/async/ent/tiyarofs/1/openai/{path}", json={"URL": URL})
    submitted = answer.json()["response"]
    assert (answer.status_code, submitted["model"]) == (202, model)
    assert (await client.get(submitted["urls"]["GET"])).json()["model"] == model


async def test_repeated_request_is_the_same_job_after_a_model_change(
    client: httpx.AsyncClient, service: Service
) -> None:
    """The stored request has the name that the client sent, so a changed alias does not matter."""
    headers = {"Idempotency-Key": "order-17"}
    body = {"url": URL, "model": "de"}
    job = (await client.post("/v1/jobs", json=body, headers=headers)).json()
    second = service.settings.models[0].model_copy(update={"aliases": ()})
    service.settings = service.settings.model_copy(update={"model_aliases": ("de",), "models": (second,)})
    again = await client.post("/v1/jobs", json=body, headers=headers)
    assert (again.status_code, again.json()["id"], again.json()["model"]) == (202, job["id"], "german")
    other = await client.post("/v1/jobs", json=body | {"model": "german"}, headers=headers)
    assert other.status_code == 422
