"""Speakers in jobs and in the other fronts: options, results, formats and reference clips."""

import asyncio
import base64
import json
from typing import Any

import httpx
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from serve_app.diarization.reference_clips import normalize_clips
from serve_app.schemas.request import JobRequest, KnownSpeaker, TranscriptionOptions, UrlSource
from serve_app.schemas.transcript import Transcript
from serve_app.services.transcription import Service
from tests import server
from tests.diarization.sounds import clip
from tests.fronts.helpers import DATA, EN
from tests.fronts.speakers.helpers import FILE, KNOWN, PATH, form
from tests.server import ARGS

BAD_SPEAKERS: list[tuple[Any, str]] = [
    (True, "diarization"),
    ("yes", "diarization"),
    ([], "diarization"),
    ({"speakers": 2}, "diarization.speakers"),
    ({"num_speakers": 0}, "diarization.num_speakers"),
    ({"num_speakers": 10**400}, "diarization.num_speakers"),
    ({"num_speakers": 2, "max_speakers": 3}, "diarization.max_speakers"),
    ({"min_speakers": 3, "max_speakers": 2}, "diarization.max_speakers"),
    ({"channels": "left"}, "diarization.channels"),
    ({"known_speakers": {"Ann": "x"}}, "diarization.known_speakers"),
    ({"known_speakers": [{"name": "Ann"}]}, "diarization.known_speakers.0.reference"),
    ({"known_speakers": [{"name": "Ann", "reference": "?"}]}, "diarization.known_speakers.0.reference"),
    ({"known_speakers": [{"name": "Ann", "reference": "AAAA"}]}, "diarization.known_speakers.0.reference"),
    (
        {"known_speakers": [*KNOWN["known_speakers"], {"name": "B", "reference": clip(1)}]},
        "diarization.known_speakers.1.reference",
    ),
    ({"known_speakers": [{"name": "a\nb", "reference": clip(2)}]}, "diarization.known_speakers.0.name"),
    ({"known_speakers": KNOWN["known_speakers"] * 2}, "diarization.known_speakers"),
]


@pytest.mark.parametrize(("given", "param"), BAD_SPEAKERS)
async def test_invalid_options_are_named(client: httpx.AsyncClient, service: Service, given: Any, param: str) -> None:
    url = "http://x/a"
    by_json = await client.post("/v1/jobs", json={"url": url, "diarization": given})
    assert (by_json.status_code, by_json.json()["error"]["param"]) == (400, param), by_json.text
    by_form = await client.post("/v1/jobs", files=FILE, data={"diarization": json.dumps(given)})
    assert (by_form.status_code, by_form.json()["error"]["param"]) == (400, param), by_form.text
    for path, name in (("/infer", param), ("/generate", param)):
        answer = await client.post(path, json={"url": url, "diarization": given})
        assert (answer.status_code, name in answer.json()["detail"]) == (400, True), answer.text
    assert not [path for folder in ("blobs", "tmp") for path in service.settings.data_dir.glob(f"{folder}/*")]


async def test_timestamps_are_required(client: httpx.AsyncClient) -> None:
    for given in ({"json": {"url": "http://x/a", "timestamps": "none", "diarization": {}}},):
        answer = await client.post("/v1/jobs", **given)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "diarization")
    answer = await client.post("/v1/jobs", files=FILE, data={"timestamps": "none", "diarization": "{}"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "diarization")
    answer = await client.post("/v1/jobs", files=FILE, data={"diarization": "{"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "diarization")


class TestWithoutDiarization:
    @pytest.fixture
    def args(self) -> dict[str, Any]:
        return ARGS

    async def test_all_fronts_reject_diarization(self, client: httpx.AsyncClient, service: Service) -> None:
        url = {"url": "http://x/a"}
        for given in ({"json": url | {"diarization": {}}}, {"files": FILE, "data": {"diarization": "{}"}}):
            native = await client.post("/v1/jobs", **given)
            assert (native.status_code, native.json()["error"]["param"]) == (400, "diarization")
        for path in (PATH, "/v1/audio/translations"):
            for stream in ("false", "true"):
                refused = await client.post(path, **form(response_format="diarized_json", stream=stream))
                assert (refused.status_code, refused.json()["error"]["param"]) == (400, "response_format")
                assert refused.json()["error"]["message"].startswith("`response_format` ")
        fast = await client.post("/", json=url | {"diarise_audio": True})
        assert (fast.status_code, fast.json()["detail"].split()[0]) == (400, "`diarise_audio`")
        for path in ("/infer", "/generate"):
            other = await client.post(path, json=url | {"diarization": {}})
            assert (other.status_code, other.json()["detail"].split()[0]) == (400, "`diarization`")
        assert not list(service.settings.data_dir.glob("blobs/*"))
        assert (await client.get("/v1/jobs")).json()["data"] == []


async def test_failed_diarization(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Any) -> Any:
        raise RuntimeError("no such pipeline")

    monkeypatch.setattr(server, "_speaker_pipeline", broken)
    transcript = (await client.post(PATH, **form(response_format="diarized_json"))).json()
    assert (transcript["text"], {one["speaker"] for one in transcript["segments"]}) == (EN, {"unknown"})
    assert "diarization failed" in transcript["warnings"][0]
    job = (await client.get("/v1/jobs")).json()["data"][0]
    refused = await client.get(job["transcript_url"], params={"format": "rttm"})
    assert (refused.status_code, "diarization failed" in refused.json()["error"]["message"]) == (400, True)


@pytest.mark.usefixtures("fake_pipeline")
async def test_job_with_speakers(client: httpx.AsyncClient) -> None:
    for timestamps in ("segment", "word"):
        data = {"diarization": json.dumps(KNOWN), "timestamps": timestamps}
        answer = await client.post("/v1/jobs", files=FILE, data=data, headers={"Prefer": "wait=60"})
        assert (answer.status_code, answer.json()["status"]) == (200, "succeeded"), answer.text
        body = (await client.get(answer.json()["transcript_url"], params={"format": "verbose_json"})).json()
        assert [one["speaker"] for one in body["segments"]] == ["Ann", "SPEAKER_01"]
        assert ("words" in body) is (timestamps == "word")
        rttm = (await client.get(answer.json()["transcript_url"], params={"format": "rttm"})).text
        assert [line.split()[7] for line in rttm.splitlines()] == ["Ann", "SPEAKER_01"]


@pytest.mark.slow
@pytest.mark.usefixtures("fake_pipeline")
async def test_synchronous_answers_of_other_fronts(client: httpx.AsyncClient) -> None:
    app = web.Application()
    received: asyncio.Queue[Any] = asyncio.Queue()

    async def hook(request: web.Request) -> web.Response:
        await received.put(await request.json())
        return web.Response()

    async def audio(_: web.Request) -> web.FileResponse:
        return web.FileResponse(DATA / "en.mp3")

    app.router.add_get("/en.mp3", audio)
    app.router.add_post("/hook", hook)
    site = TestServer(app, host="127.0.0.1")
    await site.start_server()
    url = str(site.make_url("/en.mp3"))
    body = {"url": url, "diarise_audio": True, "webhook": {"url": str(site.make_url("/hook"))}}
    fast = (await client.post("/", json=body)).json()
    assert [(one["speaker"], one["text"]) for one in fast["output"]["speakers"]] == [
        ("SPEAKER_00", " three one four one"),
        ("SPEAKER_01", " five nine"),
    ]
    assert [one["timestamp"] for one in fast["output"]["speakers"]] == [
        one["timestamp"] for one in fast["output"]["chunks"]
    ]
    assert (await client.get(f"/status/{fast['task_id']}")).json()["output"] == fast["output"]
    assert (await asyncio.wait_for(received.get(), 60))["output"] == fast["output"]
    words = (await client.post("/", json={"url": url, "diarise_audio": True, "timestamp": "word"})).json()["output"]
    assert [one["speaker"][-1] for one in words["speakers"]] == list("000011")
    octoai = (await client.post("/infer", json={"url": url, "diarization": {}, "timestamps": "word"})).json()
    assert [one["speaker"] for one in octoai["response"]["segments"]] == ["SPEAKER_00", "SPEAKER_01"]
    assert octoai["response"]["segments"][1]["words"][0]["speaker"] == "SPEAKER_01"
    assert octoai["transcription"] == EN
    verda = (await client.post("/generate", json={"url": url, "diarization": KNOWN})).json()
    assert verda["result"] == "[Ann]: three one four one\n[SPEAKER_01]: five nine"
    await site.close()


async def store_transcript(service: Service, text: str, **fields: Any) -> str:
    """Store a finished job with this transcript; return the path of its transcript."""
    request = JobRequest(source=UrlSource(url="http://x/a"), options=TranscriptionOptions(**fields))
    job = await service.jobs.register_sync(request, "call-17", owner="")
    transcript = Transcript.model_validate_json(text)
    await service.jobs.complete(job.id, transcript)
    assert await service.jobs.result(job.id, owner="") == transcript
    return f"/v1/jobs/{job.id}/transcript"


TALK = {
    "task": "transcribe",
    "language": "en",
    "duration": 4,
    "text": "three one four one",
    "segments": [
        {
            "start": at,
            "end": at + 2,
            "text": text,
            "seek": 0,
            "tokens": [],
            "temperature": 0,
            "avg_logprob": 0,
            "compression_ratio": 1,
            "no_speech_prob": 0,
            "speaker": speaker,
            "overlap": at > 0,
        }
        for at, text, speaker in ((0, " three one", "SPEAKER_00"), (2, " four one", "Ann"))
    ],
    "turns": [{"start": 0, "end": 2, "speaker": "SPEAKER_00"}, {"start": 2, "end": 4, "speaker": "Ann"}],
}


async def test_speaker_formats(client: httpx.AsyncClient, service: Service) -> None:
    path = await store_transcript(service, json.dumps(TALK), diarization={})

    async def get(name: str) -> httpx.Response:
        return await client.get(path, params={"format": name})

    rttm = await get("rttm")
    assert rttm.headers["content-type"] == "text/plain; charset=utf-8"
    assert rttm.text.splitlines()[1] == "SPEAKER call-17 1 2.000 2.000 <NA> <NA> Ann <NA> <NA>"
    assert [one["speaker"] for one in (await get("diarized_json")).json()["segments"]] == ["A", "Ann"]
    assert [one.get("overlap") for one in (await get("verbose_json")).json()["segments"]] == [None, True]
    assert (await get("text")).text == "[SPEAKER_00]: three one\n[Ann]: four one\n"
    assert "<v Ann>four one</v>" in (await get("vtt")).text
    assert "[Ann]: four one" in (await get("srt")).text
    refused = await client.get(path, params={"format": "rttm", "max_line_width": 20})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "max_line_width")


async def test_speaker_formats_without_diarization(client: httpx.AsyncClient, service: Service) -> None:
    path = await store_transcript(service, json.dumps(TALK | {"turns": None}))
    for name in ("rttm", "diarized_json"):
        answer = await client.get(path, params={"format": name})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "format")
        assert "diarization" in answer.json()["error"]["message"]


async def test_clips_are_stored_reencoded_and_redacted(client: httpx.AsyncClient, service: Service) -> None:
    body = {
        "url": "http://127.0.0.1:9/a",
        "diarization": KNOWN,
        "id": "call-1",
        "webhook": {"url": "http://127.0.0.1:9/"},
    }
    submitted = await client.post("/v1/jobs", json=body)
    assert submitted.status_code == 202, submitted.text
    listed, one = await client.get("/v1/jobs"), await client.get("/v1/jobs/call-1")
    for view in (submitted.json(), listed.json()["data"][0], one.json()):
        assert view["options"]["diarization"]["known_speakers"] == [{"name": "Ann"}]
    (ann,) = normalize_clips((KnownSpeaker(**KNOWN["known_speakers"][0]),), service.settings)
    clip_of_ann = ann.reference
    assert base64.b64decode(clip_of_ann).startswith(b"fLaC")
    assert clip_of_ann not in (await service.jobs.get("call-1", owner="")).model_dump_json()
    for answer in (submitted, listed, one):
        assert clip_of_ann[:40] not in answer.text
    assert (await client.post("/v1/jobs", json=body)).json()["id"] == "call-1"
    small = body | {"diarization": {"known_speakers": [{"name": "Ann", "reference": clip_of_ann}]}}
    assert (await client.post("/v1/jobs", json=small)).status_code == 202, "the same audio is the same request"
    other = body | {"diarization": {"known_speakers": [{"name": "Ann", "reference": clip(3)}]}}
    assert (await client.post("/v1/jobs", json=other)).status_code == 422


async def test_repeated_submit_with_upload_and_clips(client: httpx.AsyncClient) -> None:
    upload = (await client.post("/v1/uploads")).json()
    assert (await client.put(upload["url"].replace("http://service", ""), content=FILE["file"][1])).is_success
    body = {"upload_id": upload["id"], "diarization": KNOWN, "id": "call-2"}
    for _ in range(2):
        answer = await client.post("/v1/jobs", json=body)
        assert (answer.status_code, answer.json()["id"]) == (202, "call-2"), answer.text
