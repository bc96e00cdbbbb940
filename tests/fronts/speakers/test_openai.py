"""Speakers in OpenAI's transcriptions, with OpenAI's client and with raw forms."""

import base64
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI
from openai.types.audio import TranscriptionDiarized

from serve_app.services.transcription import Service
from tests.diarization.sounds import clip, speech
from tests.fronts.helpers import EN
from tests.fronts.speakers.helpers import ANN, FILE, PATH, form


@pytest.mark.usefixtures("fake_pipeline")
class TestOpenAI:
    """OpenAI's own client against a real server."""

    @pytest.fixture
    async def client(self, server_url: str) -> Any:
        async with AsyncOpenAI(base_url=f"{server_url}/v1", api_key="any", max_retries=0) as client:
            yield client

    async def test_diarized_json(self, client: AsyncOpenAI) -> None:
        transcript = await client.audio.transcriptions.create(
            file=FILE["file"], model="whisper-1", response_format="diarized_json", chunking_strategy="auto"
        )
        assert isinstance(transcript, TranscriptionDiarized)
        assert (transcript.text, [one.speaker for one in transcript.segments]) == (EN, ["A", "B"])
        assert " ".join(one.text for one in transcript.segments) == EN
        assert 0 <= transcript.segments[0].start < transcript.segments[0].end <= transcript.segments[1].start
        assert [one.id for one in transcript.segments] == ["seg_001", "seg_002"]

    async def test_known_speakers(self, client: AsyncOpenAI, service: Service) -> None:
        sound = clip(9.5, speech().set_frame_rate(48_000).set_channels(2))
        assert len(sound) > 2_000_000, "more than the default limit of a form field"
        transcript = await client.audio.transcriptions.create(
            file=FILE["file"],
            model="whisper-1",
            response_format="diarized_json",
            known_speaker_names=["Ann Lee", "Bob"],
            known_speaker_references=[f"data:audio/wav;base64,{sound}", f"data:audio/wav;base64,{clip(3)}"],
        )
        assert isinstance(transcript, TranscriptionDiarized)
        assert [one.speaker for one in transcript.segments] == ["Ann Lee", "A"]

    async def test_streamed_segments(self, client: AsyncOpenAI) -> None:
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

    async def test_errors_name_the_form_fields(self, client: AsyncOpenAI) -> None:
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
async def test_invalid_form_fields_are_named(
    client: httpx.AsyncClient, service: Service, fields: dict[str, Any], param: str
) -> None:
    answer = await client.post(PATH, **form(**fields))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
    assert "diarization" not in answer.json()["error"]["message"]
    assert not [path for folder in ("blobs", "tmp") for path in service.settings.data_dir.glob(f"{folder}/*")]


async def test_clip_over_the_limit(client: httpx.AsyncClient, service: Service) -> None:
    max_bytes = service.settings.limits.max_clip_bytes
    large = f"data:audio/wav;base64,{base64.b64encode(bytes(max_bytes + 1)).decode()}"
    answer = await client.post(
        PATH, **form(**ANN | {"known_speaker_references[]": [large]}, response_format="diarized_json")
    )
    assert (answer.status_code, answer.json()["error"]["param"]) == (413, "known_speaker_references[]")


async def test_form_field_size_is_limited(client: httpx.AsyncClient, service: Service) -> None:
    max_bytes = service.settings.limits.max_clip_bytes
    long = "A" * (2**20 + 4 * max_bytes * 4 // 3 + 1)
    for path in (PATH, "/v1/jobs"):
        answer = await client.post(path, files=FILE, data={"model": "whisper-1", "prompt": long})
        assert (answer.status_code, "maximum size" in answer.json()["error"]["message"]) == (400, True), answer.text
