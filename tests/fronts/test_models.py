"""Two models side by side: a request's model is the one whose engine, languages and windows it gets."""

import asyncio
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
from tests.fronts.native.test_jobs import DATA
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


class Windows:
    """How many windows each engine has done since the last look."""

    def __init__(self, engines: Mapping[str, Engine]) -> None:
        self._engines = engines
        self._before = self._done()

    def _done(self) -> dict[str, int]:
        return {model: engine.stats().windows for model, engine in self._engines.items()}

    def look(self) -> dict[str, int]:
        before, self._before = self._before, self._done()
        return {model: done - before[model] for model, done in self._before.items()}


@pytest.fixture
def windows(engines: Mapping[str, Engine]) -> Windows:
    return Windows(engines)


async def job_ended(client: httpx.AsyncClient, job: dict[str, Any]) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while job["status"] in ("queued", "running"):
            await asyncio.sleep(0.02)
            job = (await client.get(f"/v1/jobs/{job['id']}")).json()
    return job


def speech(times: int = 1) -> dict[str, bytes]:
    return {"file": (DATA / "de.opus").read_bytes() * times}


async def test_every_name_of_every_model_is_listed(client: httpx.AsyncClient) -> None:
    names = ["whisper-nano", "whisper-1", "german", "de", "whisper-small"]
    assert [model["id"] for model in (await client.get("/v1/models")).json()["data"]] == names
    for name in names:
        assert (await client.get(f"/v1/models/{name}")).json()["id"] == name


async def test_an_unknown_model_is_404_and_the_known_ones_are_named(client: httpx.AsyncClient) -> None:
    for answer in (
        await client.get("/v1/models/gpt-9"),
        await client.post("/v1/audio/transcriptions", files=speech(), data={"model": "gpt-9"}),
        await client.post("/v1/jobs", files=speech(), data={"model": "gpt-9"}),
    ):
        error = answer.json()["error"]
        assert (answer.status_code, error["param"], error["code"]) == (404, "model", "model_not_found")
        assert "whisper-nano, whisper-1, german, de, whisper-small" in error["message"]


@pytest.mark.parametrize(("name", "model"), [("whisper-1", "whisper-nano"), ("german", "german"), ("de", "german")])
async def test_a_text_and_a_stream_are_the_chosen_models(
    client: httpx.AsyncClient, windows: Windows, name: str, model: str
) -> None:
    for stream in ("false", "true"):
        data = {"model": name, "stream": stream}
        answer = await client.post("/v1/audio/transcriptions", files=speech(), data=data)
        assert (answer.status_code, DE in answer.text) == (200, True), answer.text
        assert {served for served, done in windows.look().items() if done} == {model}
    (job, *_) = (await client.get("/v1/jobs")).json()["data"]
    assert (job["model"], job["options"]["model"]) == (model, name)


@pytest.mark.parametrize(
    ("name", "model"), [(None, "whisper-nano"), ("whisper-nano", "whisper-nano"), ("whisper-small", "german")]
)
async def test_a_job_says_which_model_it_is_done_by(
    client: httpx.AsyncClient, windows: Windows, name: str | None, model: str
) -> None:
    answer = await client.post("/v1/jobs", files=speech(), data={} if name is None else {"model": name})
    assert answer.status_code == 202, answer.text
    job = await job_ended(client, answer.json())
    assert (job["status"], job["model"], job["options"]["model"]) == ("succeeded", model, name)
    assert {served for served, done in windows.look().items() if done} == {model}


@pytest.mark.slow
async def test_a_recording_is_cut_as_suits_its_model(client: httpx.AsyncClient, windows: Windows) -> None:
    done = {}
    for model in ("whisper-nano", "german"):
        answer = await client.post("/v1/audio/transcriptions", files=speech(10), data={"model": model})
        assert answer.status_code == 200, answer.text
        done |= {served: count for served, count in windows.look().items() if count}
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
async def test_what_the_chosen_model_cannot_do_is_refused(
    client: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    answer = await client.post(path, json=body)
    assert (answer.status_code, "german does not support french" in answer.text) == (400, True), answer.text
    allowed = json.loads(json.dumps(body).replace('"fr"', '"de"'))
    answer = await client.post(path, json=allowed)
    assert "german does not support" not in answer.text


async def test_the_default_model_is_not_held_to_what_another_can_do(client: httpx.AsyncClient) -> None:
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
async def test_tiyaros_path_and_tier_choose(client: httpx.AsyncClient, path: str, model: str) -> None:
    answer = await client.post(f"/v1/async/ent/tiyarofs/1/openai/{path}", json={"URL": URL})
    submitted = answer.json()["response"]
    assert (answer.status_code, submitted["model"]) == (202, model)
    assert (await client.get(submitted["urls"]["GET"])).json()["model"] == model


async def test_a_request_sent_again_is_the_same_job_by_whichever_model(
    client: httpx.AsyncClient, service: Service
) -> None:
    """Also when its name leads to another model by now: what the client sent is the same."""
    headers = {"Idempotency-Key": "order-17"}
    sent = {"url": URL, "model": "de"}
    job = (await client.post("/v1/jobs", json=sent, headers=headers)).json()
    second = service.settings.models[0].model_copy(update={"aliases": ()})
    service.settings = service.settings.model_copy(update={"model_aliases": ("de",), "models": (second,)})
    again = await client.post("/v1/jobs", json=sent, headers=headers)
    assert (again.status_code, again.json()["id"], again.json()["model"]) == (202, job["id"], "german")
    other = await client.post("/v1/jobs", json=sent | {"model": "german"}, headers=headers)
    assert other.status_code == 422
