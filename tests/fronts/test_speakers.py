"""Who says what, through every front: the real service, with a diarizer that hands out turns by the clock."""

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from numpy.typing import NDArray
from openai import AsyncOpenAI
from openai.types.audio import TranscriptionDiarized

from serve_app.audio import SAMPLE_RATE
from serve_app.diarization.reference_clips import normalize_clips
from serve_app.schemas.request import DiarizationOptions, JobRequest, KnownSpeaker, TranscriptionOptions, UrlSource
from serve_app.schemas.transcript import Transcript, Turn
from serve_app.services.transcription import Service
from tests import server
from tests.diarization.sounds import clip, speech
from tests.server import ARGS

DATA = Path(__file__).parent.parent / "data"
EN = "three one four one five nine"
PATH = "/v1/audio/transcriptions"
FILE = {"file": ("en.mp3", (DATA / "en.mp3").read_bytes())}
ON = {"diarization": {"pipeline": "by the clock"}}


class ByTheClock:
    """The first half is the first known speaker's, or nobody's; the second another's."""

    def diarize(self, pcm: NDArray[np.int16], options: DiarizationOptions) -> tuple[Turn, ...]:
        first = next((speaker.name for speaker in options.known_speakers), "SPEAKER_00")
        end = len(pcm) / SAMPLE_RATE
        return Turn(start=0, end=end / 2, speaker=first), Turn(start=end / 2, end=end, speaker="SPEAKER_01")


@pytest.fixture
def args() -> dict[str, Any]:
    return ARGS | ON


@pytest.fixture
def telling_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_speaker_pipeline", lambda _: ByTheClock())


def form(**fields: str | list[str]) -> dict[str, Any]:
    return {"files": FILE, "data": {"model": "whisper-1", **fields}}


ANN = {"known_speaker_names[]": ["Ann"], "known_speaker_references[]": [f"data:audio/wav;base64,{clip(2.5)}"]}
KNOWN = {"known_speakers": [{"name": "Ann", "reference": clip(2.5)}]}


@pytest.mark.usefixtures("telling_apart")
class TestOpenAI:
    """Its own client, against a real server."""

    @pytest.fixture
    async def client(self, server_url: str) -> Any:
        async with AsyncOpenAI(base_url=f"{server_url}/v1", api_key="any", max_retries=0) as client:
            yield client

    async def test_a_diarized_transcription(self, client: AsyncOpenAI) -> None:
        found = await client.audio.transcriptions.create(
            file=FILE["file"], model="whisper-1", response_format="diarized_json", chunking_strategy="auto"
        )
        assert isinstance(found, TranscriptionDiarized)
        assert (found.text, [one.speaker for one in found.segments]) == (EN, ["A", "B"])
        assert " ".join(one.text for one in found.segments) == EN
        assert 0 <= found.segments[0].start < found.segments[0].end <= found.segments[1].start
        assert [one.id for one in found.segments] == ["seg_001", "seg_002"]

    async def test_known_speakers_are_called_by_name(self, client: AsyncOpenAI, service: Service) -> None:
        sound = clip(9.5, speech().set_frame_rate(48_000).set_channels(2))
        assert len(sound) > 2_000_000, "more than a field of a form is allowed without ado"
        found = await client.audio.transcriptions.create(
            file=FILE["file"],
            model="whisper-1",
            response_format="diarized_json",
            known_speaker_names=["Ann Lee", "Bob"],
            known_speaker_references=[f"data:audio/wav;base64,{sound}", f"data:audio/wav;base64,{clip(3)}"],
        )
        assert isinstance(found, TranscriptionDiarized)
        assert [one.speaker for one in found.segments] == ["Ann Lee", "A"]

    async def test_segments_come_at_the_end_of_a_stream(self, client: AsyncOpenAI) -> None:
        stream = await client.audio.transcriptions.create(
            file=FILE["file"], model="whisper-1", response_format="diarized_json", stream=True
        )
        events = [event async for event in stream]
        assert [event.type.removeprefix("transcript.text.") for event in events] == [
            *("delta", "segment", "segment", "done")
        ]
        assert [event.speaker for event in events if event.type == "transcript.text.segment"] == ["A", "B"]
        assert " ".join(event.text for event in events if event.type == "transcript.text.segment") == EN
        assert events[-1].type == "transcript.text.done"
        assert events[-1].text == EN

    async def test_errors_name_openais_fields(self, client: AsyncOpenAI) -> None:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.audio.transcriptions.create(
                file=FILE["file"],
                model="whisper-1",
                response_format="diarized_json",
                known_speaker_names=["Ann", "Bob"],
                known_speaker_references=[f"data:audio/wav;base64,{clip(3)}", f"data:audio/wav;base64,{clip(1)}"],
            )
        assert (refused.value.param, refused.value.code) == ("known_speaker_references[]", "clip_length")
        assert "known_speaker_references[1]: a clip must last 2 to 10 s" in refused.value.message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"known_speaker_names[]": "Ann"}, "known_speaker_names[]"),
        ({"response_format": "json"} | ANN, "known_speaker_names[]"),
        ({"response_format": "srt"} | ANN, "known_speaker_names[]"),
        ({"known_speaker_references[]": ANN["known_speaker_references[]"]}, "known_speaker_references[]"),
        (
            {"response_format": "diarized_json"} | ANN | {"known_speaker_names[]": ["a", "b"]},
            "known_speaker_references[]",
        ),
        ({"response_format": "diarized_json"} | ANN | {"known_speaker_names[]": []}, "known_speaker_references[]"),
        ({"response_format": "diarized_json"} | ANN | {"known_speaker_names[]": [""]}, "known_speaker_names[]"),
        (
            {"response_format": "diarized_json"} | ANN | {"known_speaker_names[]": ["SPEAKER_00"]},
            "known_speaker_names[]",
        ),
        (
            {"response_format": "diarized_json", **{name: 2 * value for name, value in ANN.items()}},
            "known_speaker_names[]",
        ),
        (
            {"response_format": "diarized_json", **{name: 5 * value for name, value in ANN.items()}},
            "known_speaker_names[]",
        ),
        (
            {"response_format": "diarized_json"} | ANN | {"known_speaker_references[]": [""]},
            "known_speaker_references[]",
        ),
        (
            {"response_format": "diarized_json"} | ANN | {"known_speaker_references[]": ["data:audio/wav;base64,AA=="]},
            "known_speaker_references[]",
        ),
        ({"response_format": "diarized_json", "timestamp_granularities[]": "word"}, "timestamp_granularities[]"),
        ({"response_format": "diarized_json", "include[]": "logprobs"}, "include[]"),
        ({"response_format": "rttm"}, "response_format"),
    ],
)
async def test_what_openais_form_cannot_say_is_refused_by_name(
    client: httpx.AsyncClient, service: Service, fields: dict[str, Any], param: str
) -> None:
    answer = await client.post(PATH, **form(**fields))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
    assert "diarization" not in answer.json()["error"]["message"]
    assert not [path for folder in ("blobs", "tmp") for path in service.settings.data_dir.glob(f"{folder}/*")]


async def test_a_clip_over_the_limit_is_a_413(client: httpx.AsyncClient, service: Service) -> None:
    most = service.settings.limits.max_clip_bytes
    large = f"data:audio/wav;base64,{base64.b64encode(bytes(most + 1)).decode()}"
    answer = await client.post(
        PATH, **form(**ANN | {"known_speaker_references[]": [large]}, response_format="diarized_json")
    )
    assert (answer.status_code, answer.json()["error"]["param"]) == (413, "known_speaker_references[]")


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
async def test_what_cannot_be_is_refused_by_name(
    client: httpx.AsyncClient, service: Service, given: Any, param: str
) -> None:
    url = "http://x/a"
    in_json = await client.post("/v1/jobs", json={"url": url, "diarization": given})
    assert (in_json.status_code, in_json.json()["error"]["param"]) == (400, param), in_json.text
    in_form = await client.post("/v1/jobs", files=FILE, data={"diarization": json.dumps(given)})
    assert (in_form.status_code, in_form.json()["error"]["param"]) == (400, param), in_form.text
    for path, name in (("/infer", param), ("/generate", param)):
        answer = await client.post(path, json={"url": url, "diarization": given})
        assert (answer.status_code, name in answer.json()["detail"]) == (400, True), answer.text
    assert not [path for folder in ("blobs", "tmp") for path in service.settings.data_dir.glob(f"{folder}/*")]


async def test_timestamps_are_needed(client: httpx.AsyncClient) -> None:
    for given in ({"json": {"url": "http://x/a", "timestamps": "none", "diarization": {}}},):
        answer = await client.post("/v1/jobs", **given)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "diarization")
    answer = await client.post("/v1/jobs", files=FILE, data={"timestamps": "none", "diarization": "{}"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "diarization")
    answer = await client.post("/v1/jobs", files=FILE, data={"diarization": "{"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "diarization")


class TestOff:
    @pytest.fixture
    def args(self) -> dict[str, Any]:
        return ARGS

    async def test_every_front_refuses_in_its_own_words(self, client: httpx.AsyncClient, service: Service) -> None:
        url = {"url": "http://x/a"}
        for given in ({"json": url | {"diarization": {}}}, {"files": FILE, "data": {"diarization": "{}"}}):
            native = await client.post("/v1/jobs", **given)
            assert (native.status_code, native.json()["error"]["param"]) == (400, "diarization")
        for path in (PATH, "/v1/audio/translations"):
            for stream in ("false", "true"):
                theirs = await client.post(path, **form(response_format="diarized_json", stream=stream))
                assert (theirs.status_code, theirs.json()["error"]["param"]) == (400, "response_format")
                assert theirs.json()["error"]["message"].startswith("`response_format` ")
        fast = await client.post("/", json=url | {"diarise_audio": True})
        assert (fast.status_code, fast.json()["detail"].split()[0]) == (400, "`diarise_audio`")
        for path in ("/infer", "/generate"):
            other = await client.post(path, json=url | {"diarization": {}})
            assert (other.status_code, other.json()["detail"].split()[0]) == (400, "`diarization`")
        assert not list(service.settings.data_dir.glob("blobs/*"))
        assert (await client.get("/v1/jobs")).json()["data"] == []


async def test_who_cannot_be_told_apart_is_unknown(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Any) -> Any:
        raise RuntimeError("no such pipeline")

    monkeypatch.setattr(server, "_speaker_pipeline", broken)
    found = (await client.post(PATH, **form(response_format="diarized_json"))).json()
    assert (found["text"], {one["speaker"] for one in found["segments"]}) == (EN, {"unknown"})
    assert "diarization failed" in found["warnings"][0]
    job = (await client.get("/v1/jobs")).json()["data"][0]
    refused = await client.get(job["transcript_url"], params={"format": "rttm"})
    assert (refused.status_code, "diarization failed" in refused.json()["error"]["message"]) == (400, True)


@pytest.mark.usefixtures("telling_apart")
async def test_a_job_tells_who_spoke(client: httpx.AsyncClient) -> None:
    for timestamps in ("segment", "word"):
        data = {"diarization": json.dumps(KNOWN), "timestamps": timestamps}
        answer = await client.post("/v1/jobs", files=FILE, data=data, headers={"Prefer": "wait=60"})
        assert (answer.status_code, answer.json()["status"]) == (200, "succeeded"), answer.text
        body = (await client.get(answer.json()["transcript_url"], params={"format": "verbose_json"})).json()
        assert [one["speaker"] for one in body["segments"]] == ["Ann", "SPEAKER_01"]
        assert ("words" in body) is (timestamps == "word")
        rttm = (await client.get(answer.json()["transcript_url"], params={"format": "rttm"})).text
        assert [line.split()[7] for line in rttm.splitlines()] == ["Ann", "SPEAKER_01"]


@pytest.mark.usefixtures("telling_apart")
async def test_the_other_fronts_answers_at_once(client: httpx.AsyncClient) -> None:
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
    octo = (await client.post("/infer", json={"url": url, "diarization": {}, "timestamps": "word"})).json()
    assert [one["speaker"] for one in octo["response"]["segments"]] == ["SPEAKER_00", "SPEAKER_01"]
    assert octo["response"]["segments"][1]["words"][0]["speaker"] == "SPEAKER_01"
    assert octo["transcription"] == EN
    verda = (await client.post("/generate", json={"url": url, "diarization": KNOWN})).json()
    assert verda["result"] == "[Ann]: three one four one\n[SPEAKER_01]: five nine"
    await site.close()


async def finished(service: Service, text: str, **fields: Any) -> str:
    """A job that has ended with a transcript."""
    request = JobRequest(source=UrlSource(url="http://x/a"), options=TranscriptionOptions(**fields))
    job = await service.jobs.register_sync(request, "call-17", owner="")
    told = Transcript.model_validate_json(text)
    await service.jobs.complete(job.id, told)
    assert await service.jobs.result(job.id, owner="") == told
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


async def test_a_transcript_in_the_formats_of_speakers(client: httpx.AsyncClient, service: Service) -> None:
    path = await finished(service, json.dumps(TALK), diarization={})

    async def get(form: str) -> httpx.Response:
        return await client.get(path, params={"format": form})

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


async def test_formats_of_speakers_of_a_job_without_any(client: httpx.AsyncClient, service: Service) -> None:
    path = await finished(service, json.dumps(TALK | {"turns": None}))
    for form in ("rttm", "diarized_json"):
        answer = await client.get(path, params={"format": form})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "format")
        assert "diarization" in answer.json()["error"]["message"]


async def test_clips_are_kept_small_and_never_shown(client: httpx.AsyncClient, service: Service) -> None:
    body = {
        "url": "http://127.0.0.1:9/a",
        "diarization": KNOWN,
        "id": "call-1",
        "webhook": {"url": "http://127.0.0.1:9/"},
    }
    submitted = await client.post("/v1/jobs", json=body)
    assert submitted.status_code == 202, submitted.text
    listed, one = await client.get("/v1/jobs"), await client.get("/v1/jobs/call-1")
    for shown in (submitted.json(), listed.json()["data"][0], one.json()):
        assert shown["options"]["diarization"]["known_speakers"] == [{"name": "Ann"}]
    (ann,) = normalize_clips((KnownSpeaker(**KNOWN["known_speakers"][0]),), service.settings)
    clip_of_ann = ann.reference
    assert base64.b64decode(clip_of_ann).startswith(b"fLaC")
    assert clip_of_ann not in (await service.jobs.get("call-1", owner="")).model_dump_json()
    for answer in (submitted, listed, one):
        assert clip_of_ann[:40] not in answer.text
    assert (await client.post("/v1/jobs", json=body)).json()["id"] == "call-1"
    small = body | {"diarization": {"known_speakers": [{"name": "Ann", "reference": clip_of_ann}]}}
    assert (await client.post("/v1/jobs", json=small)).status_code == 202, "the same sound is the same request"
    other = body | {"diarization": {"known_speakers": [{"name": "Ann", "reference": clip(3)}]}}
    assert (await client.post("/v1/jobs", json=other)).status_code == 422


async def test_an_upload_may_be_claimed_again_with_its_clips(client: httpx.AsyncClient) -> None:
    upload = (await client.post("/v1/uploads")).json()
    assert (await client.put(upload["url"].replace("http://service", ""), content=FILE["file"][1])).is_success
    body = {"upload_id": upload["id"], "diarization": KNOWN, "id": "call-2"}
    for _ in range(2):
        answer = await client.post("/v1/jobs", json=body)
        assert (answer.status_code, answer.json()["id"]) == (202, "call-2"), answer.text


async def test_fields_of_a_form_have_an_end(client: httpx.AsyncClient, service: Service) -> None:
    most = service.settings.limits.max_clip_bytes
    long = "A" * (2**20 + 4 * most * 4 // 3 + 1)
    for path in (PATH, "/v1/jobs"):
        answer = await client.post(path, files=FILE, data={"model": "whisper-1", "prompt": long})
        assert (answer.status_code, "maximum size" in answer.json()["error"]["message"]) == (400, True), answer.text
