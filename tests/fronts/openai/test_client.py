"""OpenAI's own client and streamed transcripts, against a real server."""

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import srt
import webvtt
from openai import AsyncOpenAI, OpenAI
from pydub import AudioSegment

from serve_app.audio import SAMPLE_RATE
from serve_app.audio.decode import AudioDecoder
from serve_app.http import sse
from serve_app.services.transcription import Service
from serve_app.settings import LimitSettings
from serve_app.whisper.engine.engine import Engine

pytestmark = [
    pytest.mark.slow,  # many transcriptions
    pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning"),  # the client deprecates translations
]

DATA = Path(__file__).parents[2] / "data"
EN = "three one four one five nine"
ES = "uno siete tres dos cero cinco"


def file(name: str = "en.mp3") -> tuple[str, bytes]:
    return name, (DATA / name).read_bytes()


def minutes_of_speech(count: float) -> bytes:
    pcm = np.concatenate(list(AudioDecoder(DATA / "es.wav", LimitSettings())))
    segment = AudioSegment(pcm.tobytes(), sample_width=2, frame_rate=SAMPLE_RATE, channels=1)
    sound = io.BytesIO()
    (segment * round(count * 60 * SAMPLE_RATE / len(pcm))).export(sound, format="wav")
    return sound.getvalue()


@pytest.fixture
async def client(server_url: str) -> Any:
    async with AsyncOpenAI(base_url=f"{server_url}/v1", api_key="any", max_retries=0) as client:
        yield client


async def test_transcription_formats(client: AsyncOpenAI) -> None:
    create = client.audio.transcriptions.create
    body = await create(file=file(), model="whisper-1")
    assert (body.text, body.usage.type, body.usage.seconds) == (EN, "duration", 4)
    assert await create(file=file(), model="whisper-1", response_format="text") == EN + "\n"
    subtitles = await create(file=file(), model="whisper-1", response_format="srt")
    assert [cue.content for cue in srt.parse(subtitles)] == [EN]
    subtitles = await create(file=file(), model="whisper-1", response_format="vtt", language="en", temperature=0.0)
    assert [cue.text for cue in webvtt.from_string(subtitles, strict=True)] == [EN]


async def test_timestamp_granularities(client: AsyncOpenAI) -> None:
    create = client.audio.transcriptions.create
    for granularities in (["word"], ["segment"], ["word", "segment"]):
        body = await create(
            file=file(), model="whisper-1", response_format="verbose_json", timestamp_granularities=granularities
        )
        assert (body.text, body.language, body.segments[0].id) == (EN, "english", 0)
        words = [word.word for word in body.words or ()]
        assert words == (EN.split() if "word" in granularities else [])
    body = await create(file=file(), model="whisper-1", include=["logprobs"])
    assert "".join(token.token for token in body.logprobs).strip() == EN


async def test_chunking_strategy_and_keywords(client: AsyncOpenAI, service: Service) -> None:
    strategy: Any = {"type": "server_vad", "threshold": 0.4, "prefix_padding_ms": 200, "silence_duration_ms": 300}
    body = await client.audio.transcriptions.create(
        file=file(), model="whisper-1", chunking_strategy=strategy, keywords=["nine"]
    )
    assert body.text == EN
    (job,) = (await service.jobs.list(None, 1, None, owner="")).data
    assert job.request.options.vad.model_dump() == {
        "threshold": 0.4,
        "min_speech_ms": None,
        "min_silence_ms": 300,
        "pad_ms": 200,
    }
    assert job.request.options.hotwords == "nine"


async def test_translations(client: AsyncOpenAI) -> None:
    create = client.audio.translations.create
    english = "two seven one eight two eight"
    assert (await create(file=file("de.opus"), model="whisper-1")).text == english
    body = await create(file=file("de.opus"), model="whisper-1", response_format="verbose_json")
    assert (body.text, body.language) == (english, "english")
    assert await create(file=file("de.opus"), model="whisper-1", response_format="text") == english + "\n"


async def test_models(client: AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["whisper-nano", "whisper-1"]
    assert (await client.models.retrieve("whisper-1")).object == "model"
    with pytest.raises(openai.NotFoundError) as missing:
        await client.models.retrieve("gpt-9")
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")


async def test_error_types(client: AsyncOpenAI) -> None:
    create = client.audio.transcriptions.create
    with pytest.raises(openai.NotFoundError) as error:
        await create(file=file(), model="gpt-9")
    assert (error.value.param, error.value.code) == ("model", "model_not_found")
    with pytest.raises(openai.BadRequestError) as error:
        await create(file=("a.mp3", b"no sound"), model="whisper-1")
    assert (error.value.code, error.value.type) == ("not_audio", "invalid_request_error")
    with pytest.raises(openai.BadRequestError) as error:
        await create(file=file(), model="whisper-1", known_speaker_names=["Ann"])
    assert error.value.param == "known_speaker_names[]"
    with pytest.raises(openai.BadRequestError) as error:  # before the stream begins
        await create(file=("a.mp3", b"no sound"), model="whisper-1", stream=True)
    assert error.value.code == "not_audio"


async def test_blocking_client(server_url: str) -> None:
    def transcribe_twice() -> tuple[str, list[str]]:
        with OpenAI(base_url=f"{server_url}/v1", api_key="any", max_retries=0) as client:
            text = client.audio.transcriptions.create(file=file("fr.flac"), model="whisper-1").text
            stream = client.audio.transcriptions.create(file=file("fr.flac"), model="whisper-1", stream=True)
            return text, [event.type for event in stream]

    assert await asyncio.to_thread(transcribe_twice) == (
        "un quatre un quatre deux un",
        ["transcript.text.delta", "transcript.text.done"],
    )


class TestKeys:
    @pytest.fixture
    def args(self) -> dict[str, Any]:
        return {"api_keys": ["one"]}

    async def test_wrong_api_key(self, client: AsyncOpenAI) -> None:
        with pytest.raises(openai.AuthenticationError) as error:
            await client.audio.transcriptions.create(file=file(), model="whisper-1")
        assert error.value.code == "invalid_api_key"
        assert await client.with_options(api_key="one").models.list()


class TestLimits:
    @pytest.fixture
    def args(self) -> dict[str, Any]:
        return {"limits": {"request_timeout_s": 0.05}}

    async def test_timed_out_request_is_not_retried(self, client: AsyncOpenAI, service: Service) -> None:
        with pytest.raises(openai.APIStatusError) as error:
            await client.with_options(max_retries=2).audio.transcriptions.create(
                file=("a.wav", minutes_of_speech(2)), model="whisper-1"
            )
        assert error.value.status_code == 408
        assert len((await service.jobs.list(None, 10, None, owner="")).data) == 1


async def test_deltas_are_streamed_during_transcription(client: AsyncOpenAI, engine: Engine) -> None:
    sound = minutes_of_speech(4)
    before = engine.stats().windows
    stream = await client.audio.transcriptions.create(
        file=("a.wav", sound), model="whisper-1", stream=True, include=["logprobs"]
    )
    deltas, first = [], 0
    async for event in stream:
        if event.type == "transcript.text.delta":
            deltas.append(event)
            first = first or engine.stats().windows
        else:
            done = event
    last = engine.stats().windows
    print(f"the first delta came after {first - before} of {last - before} windows")
    assert first - before < (last - before) / 2
    assert len(deltas) > 10
    assert "".join(delta.delta for delta in deltas) == done.text
    assert done.type == "transcript.text.done"
    tokens = [token.model_dump() for delta in deltas for token in delta.logprobs]
    assert tokens == [token.model_dump() for token in done.logprobs]
    whole = await client.audio.transcriptions.create(file=("a.wav", sound), model="whisper-1")
    assert (done.text, done.usage.seconds) == (whole.text, whole.usage.seconds)
    assert ES in whole.text


async def test_translation_is_streamed(server_url: str) -> None:
    async with httpx.AsyncClient(base_url=server_url, timeout=60) as client:
        answer = await client.post(
            "/v1/audio/translations", files={"file": file("de.opus")}, data={"model": "whisper-1", "stream": "true"}
        )
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    events = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line]
    english = "two seven one eight two eight"
    assert events == [
        {"type": "transcript.text.delta", "delta": english},
        {"type": "transcript.text.done", "text": english, "usage": {"type": "duration", "seconds": 4}},
    ]


async def test_stream_sends_keep_alive_comments(
    client: AsyncOpenAI, server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = minutes_of_speech(1)
    monkeypatch.setattr(sse, "KEEP_ALIVE_S", 0.005)
    stream = await client.audio.transcriptions.create(file=("a.wav", sound), model="whisper-1", stream=True)
    events = [event async for event in stream]
    assert {event.type for event in events} == {"transcript.text.delta", "transcript.text.done"}
    assert ES in events[-1].text
    async with httpx.AsyncClient(base_url=server_url, timeout=60) as http_client:
        answer = await http_client.post(
            "/v1/audio/transcriptions", files={"file": sound}, data={"model": "whisper-1", "stream": "true"}
        )
    blocks = answer.text.split("\n\n")
    assert blocks.count(": ping") > 5
    assert {block[:6] for block in blocks} == {": ping", "data: ", ""}
    # An error after the first comment is an event, as after a delta.
    broken = await client.audio.transcriptions.create(file=("a.mp3", b"no sound"), model="whisper-1", stream=True)
    with pytest.raises(openai.APIError) as error:
        async for _ in broken:
            pass
    assert error.value.code == "not_audio"


async def test_disconnect_before_the_first_delta_cancels_the_job(
    server_url: str, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "KEEP_ALIVE_S", 0.001)
    async with httpx.AsyncClient(base_url=server_url, timeout=60) as client:
        files, data = {"file": minutes_of_speech(10)}, {"model": "whisper-1", "stream": "true"}
        async with client.stream("POST", "/v1/audio/transcriptions", files=files, data=data) as answer:
            async for text in answer.aiter_text():
                assert text.replace(": ping\n\n", "") == ""
                if (await service.jobs.list(None, 1, None, owner="")).data:
                    break
    async with asyncio.timeout(10):
        while (state := (await service.jobs.list(None, 1, None, owner="")).data[0].state) == "running":
            await asyncio.sleep(0.05)
    assert state == "cancelled"


async def test_silence_is_streamed_as_empty_text(client: AsyncOpenAI) -> None:
    sound = io.BytesIO()
    AudioSegment.silent(3000, SAMPLE_RATE).export(sound, format="wav")
    stream = await client.audio.transcriptions.create(file=("a.wav", sound.getvalue()), model="whisper-1", stream=True)
    assert [(event.type, event.text) async for event in stream] == [("transcript.text.done", "")]


async def test_disconnect_during_the_stream_cancels_the_job(client: AsyncOpenAI, service: Service) -> None:
    stream = await client.audio.transcriptions.create(
        file=("a.wav", minutes_of_speech(10)), model="whisper-1", stream=True
    )
    assert (await anext(stream)).type == "transcript.text.delta"
    await stream.close()
    async with asyncio.timeout(10):
        while (state := (await service.jobs.list(None, 1, None, owner="")).data[0].state) == "running":
            await asyncio.sleep(0.05)
    assert state == "cancelled"
    assert not list(service.settings.spool_dir.iterdir())


async def test_error_after_the_first_delta_is_an_event(
    client: AsyncOpenAI, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = await client.audio.transcriptions.create(
        file=("a.wav", minutes_of_speech(10)), model="whisper-1", stream=True
    )
    assert (await anext(stream)).type == "transcript.text.delta"

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("the engine's thread has ended")

    monkeypatch.setattr(engine, "submit", broken)
    with pytest.raises(openai.APIError) as error:
        async for _ in stream:
            pass
    assert (error.value.type, error.value.code) == ("server_error", "internal_error")
    assert "thread" not in error.value.message
