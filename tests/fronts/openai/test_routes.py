import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.datastructures import UploadFile

from serve_app.fronts.openai.forms import TranscriptionForm, TranslationForm
from serve_app.services.transcription import Service

DATA = Path(__file__).parents[2] / "data"
PATH = "/v1/audio/transcriptions"
TRANSLATIONS = "/v1/audio/translations"
VAD = {"chunking_strategy[type]": "server_vad"}
EN = "three one four one five nine"


def upload(name: str = "en.mp3", **fields: str | list[str]) -> dict[str, Any]:
    return {"files": {"file": (name, (DATA / name).read_bytes())}, "data": {"model": "whisper-1", **fields}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "text", "language"),
    [
        ("en.mp3", EN, "english"),
        ("de.opus", "zwei sieben eins acht zwei acht", "german"),
        ("fr.flac", "un quatre un quatre deux un", "french"),
        ("es.wav", "uno siete tres dos cero cinco", "spanish"),
    ],
)
async def test_verbose_json(client: httpx.AsyncClient, name: str, text: str, language: str) -> None:
    answer = await client.post(PATH, **upload(name, response_format="verbose_json"))
    body = answer.json()
    assert answer.status_code == 200, body
    assert (body["text"], body["language"], body["task"]) == (text, language, "transcribe")
    assert set(body["segments"][0]) == {
        *("id", "seek", "start", "end", "text", "tokens", "temperature"),
        *("avg_logprob", "compression_ratio", "no_speech_prob"),
    }
    assert 0 <= body["segments"][0]["start"] < body["segments"][-1]["end"] <= body["duration"]
    assert body["usage"]["seconds"] >= body["duration"]


async def test_word_timestamps(client: httpx.AsyncClient) -> None:
    fields = {"response_format": "verbose_json", "timestamp_granularities[]": ["word", "segment"]}
    body = (await client.post(PATH, **upload(**fields))).json()
    assert [word["word"] for word in body["words"]] == EN.split()
    times = [time for word in body["words"] for time in (word["start"], word["end"])]
    assert times == sorted(times)
    assert body["segments"][0]["start"] <= times[0] < times[-1] <= body["segments"][0]["end"]
    assert "words" not in (await client.post(PATH, **upload(response_format="verbose_json"))).json()


@pytest.mark.parametrize("form", [TranscriptionForm, TranslationForm])
def test_subtitles_use_word_timestamps(form: type[TranscriptionForm | TranslationForm]) -> None:
    def timestamps(response_format: str) -> str:
        fields = {"file": UploadFile(io.BytesIO()), "model": "whisper-1", "response_format": response_format}
        return form.model_validate(fields).options().timestamps

    assert [timestamps(one) for one in ("srt", "vtt", "tsv", "verbose_json")] == ["word", "word", "segment", "segment"]


async def test_log_probabilities(client: httpx.AsyncClient) -> None:
    body = (await client.post(PATH, **upload(**{"include[]": "logprobs"}))).json()
    assert "".join(token["token"] for token in body["logprobs"]).strip() == EN
    assert all(token["logprob"] <= 0 and bytes(token["bytes"]).decode() == token["token"] for token in body["logprobs"])


@pytest.mark.slow
@pytest.mark.parametrize("path", [PATH, TRANSLATIONS])
@pytest.mark.parametrize(
    ("response_format", "content_type", "beginning"),
    [
        ("json", "application/json", '{"text":'),
        ("verbose_json", "application/json", '{"task":'),
        ("text", "text/plain; charset=utf-8", ""),
        ("srt", "application/x-subrip; charset=utf-8", "1\n00:00:0"),
        ("vtt", "text/vtt; charset=utf-8", "WEBVTT\n\n00:0"),
        ("tsv", "text/tab-separated-values; charset=utf-8", "start\tend\ttext\n"),
    ],
)
async def test_response_formats(
    client: httpx.AsyncClient, path: str, response_format: str, content_type: str, beginning: str
) -> None:
    answer = await client.post(path, **upload("de.opus", response_format=response_format))
    assert (answer.status_code, answer.headers["content-type"]) == (200, content_type), answer.text
    assert answer.text.startswith(beginning)
    assert ("zwei sieben eins" if path == PATH else "two seven one") in answer.text


async def test_translation(client: httpx.AsyncClient) -> None:
    body = (await client.post(TRANSLATIONS, **upload("de.opus", response_format="verbose_json"))).json()
    assert (body["task"], body["language"], body["text"]) == ("translate", "english", "two seven one eight two eight")


@pytest.mark.slow
@pytest.mark.parametrize(
    "strategy",
    [
        {**VAD, "chunking_strategy[silence_duration_ms]": "60", "chunking_strategy[prefix_padding_ms]": "0"},
        {"chunking_strategy": '{"type": "server_vad", "silence_duration_ms": 60, "prefix_padding_ms": 0}'},
    ],
)
async def test_chunking_strategy(client: httpx.AsyncClient, service: Service, strategy: dict[str, str]) -> None:
    assert (await client.post(PATH, **upload(chunking_strategy="auto"))).json()["text"] == EN
    without_speech = await client.post(PATH, **upload(**{**VAD, "chunking_strategy[threshold]": "1"}))
    assert without_speech.json()["text"] == "", "no probability exceeds 1"
    assert (await client.post(PATH, **upload(**strategy))).json()["text"] == EN
    job = (await client.get("/v1/jobs", params={"limit": 1})).json()["data"][0]
    assert {name: value for name, value in job["options"]["vad"].items() if value is not None} == {
        "min_silence_ms": 60,
        "pad_ms": 0,
    }


async def test_keywords_are_hotwords(client: httpx.AsyncClient) -> None:
    assert (await client.post(PATH, **upload(**{"keywords[]": ["one", "two"]}))).status_code == 200
    job = (await client.get("/v1/jobs", params={"limit": 1})).json()["data"][0]
    assert job["options"]["hotwords"] == "one, two"


async def test_json_and_text(client: httpx.AsyncClient) -> None:
    assert (await client.post(PATH, **upload())).json() == {"text": EN, "usage": {"type": "duration", "seconds": 4}}
    answer = await client.post(PATH, **upload(response_format="text"))
    assert (answer.text, answer.headers["content-type"]) == (EN + "\n", "text/plain; charset=utf-8")


@pytest.mark.parametrize(
    ("fields", "param", "status"),
    [
        ({"model": "gpt-9"}, "model", 404),
        ({"language": "xx"}, "language", 400),
        ({"language": "ja"}, "language", 400),
        ({"response_format": "diarized_json"}, "response_format", 400),
        ({"response_format": "rttm"}, "response_format", 400),
        ({"response_format": "SRT"}, "response_format", 400),
        ({"known_speaker_names[]": "Ann"}, "known_speaker_names[]", 400),
        ({"known_speaker_references[]": "data:audio/wav;base64,AA=="}, "known_speaker_references[]", 400),
        ({"languages[]": "en"}, "languages[]", 400),
        ({"model": ""}, "model", 400),
        ({"model": ["whisper-1", "whisper-1"]}, "model", 400),
        ({"temperature": "nan"}, "temperature", 400),
        ({"temperature": "1e999"}, "temperature", 400),
        ({"file": "the name of a file"}, "file", 400),
        ({"temperature": "1.1"}, "temperature", 400),
        ({"temperature": "-0.1"}, "temperature", 400),
        ({"timestamp_granularities[]": "word"}, "timestamp_granularities[]", 400),
        ({"include[]": "logprobs", "response_format": "verbose_json"}, "include[]", 400),
        ({"include[]": "tokens"}, "include[].0", 400),
        ({"temperature": "warm"}, "temperature", 400),
        ({"timestamp_granularities[]": "segment"}, "timestamp_granularities[]", 400),
        ({"stream": "perhaps"}, "stream", 400),
        ({"stream": "true", "response_format": "srt"}, "stream", 400),
        ({"stream": "true", "response_format": "verbose_json"}, "stream", 400),
        ({"keywords[]": ["a" * 6000, "b" * 6000]}, "keywords[]", 400),
        ({"chunking_strategy": "server_vad"}, "chunking_strategy", 400),
        ({"chunking_strategy": "null"}, "chunking_strategy", 400),
        ({"chunking_strategy": "[" * 5000}, "chunking_strategy", 400),
        ({"chunking_strategy": "{}"}, "chunking_strategy.type", 400),
        ({"chunking_strategy": '{"type": "server_vad", "loudness": 1}'}, "chunking_strategy.loudness", 400),
        ({"chunking_strategy[type]": "semantic_vad"}, "chunking_strategy.type", 400),
        ({"chunking_strategy[threshold]": "0.5"}, "chunking_strategy.type", 400),
        ({**VAD, "chunking_strategy[threshold]": "1.5"}, "chunking_strategy.threshold", 400),
        ({**VAD, "chunking_strategy[prefix_padding_ms]": "-1"}, "chunking_strategy.prefix_padding_ms", 400),
        ({**VAD, "chunking_strategy[silence_duration_ms]": "9" * 400}, "chunking_strategy.silence_duration_ms", 400),
        ({**VAD, "chunking_strategy[a][b]": "1"}, "chunking_strategy.a][b", 400),
        ({**VAD, "chunking_strategy": "auto"}, "chunking_strategy[type]", 400),
        ({"langauge": "en"}, "langauge", 400),
        ({"prompt": "a" * 10_001}, "prompt", 400),
    ],
)
async def test_invalid_fields_are_named(
    client: httpx.AsyncClient, service: Service, fields: dict[str, str], param: str, status: int
) -> None:
    answer = await client.post(PATH, **upload(**fields))
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param)
    assert set(error) == {"message", "type", "param", "code"}
    assert not list(service.settings.data_dir.glob("blobs/*")), "the rejected upload was left"


@pytest.mark.parametrize(
    "fields", [{"temperature": "0"}, {"temperature": "0.2"}, {"stream": "false"}, {"language": ""}]
)
async def test_explicit_default_values(client: httpx.AsyncClient, fields: dict[str, str]) -> None:
    answer = await client.post(PATH, **upload(**fields))
    assert (answer.status_code, answer.json()["text"]) == (200, EN), answer.text


@pytest.mark.parametrize("charset", ["utf-7", "undefined", "latin-1"])
async def test_unsupported_charset(client: httpx.AsyncClient, charset: str) -> None:
    headers = {"content-type": f"multipart/form-data; boundary=B; charset={charset}"}
    for path in (PATH, "/v1/jobs"):
        assert (await client.post(path, content=b"--B--", headers=headers)).status_code == 415


@pytest.mark.parametrize(
    ("content", "content_type", "param"),
    [
        (b'{"model": "whisper-1"}', "application/json", "file"),
        (b"model=whisper-1", "application/x-www-form-urlencoded", "file"),
        (b"", "multipart/form-data; boundary=B", "file"),
        (b"--B\r\nContent-Disposition: form-data\r\n\r\nx\r\n--B--", "multipart/form-data; boundary=B", None),
        (b"x", "multipart/form-data", None),
        (b"--B\r\n" * 2000 + b"--B--", "multipart/form-data; boundary=B", None),
    ],
)
async def test_invalid_forms_are_rejected(
    client: httpx.AsyncClient, content: bytes, content_type: str, param: str | None
) -> None:
    for path in (PATH, TRANSLATIONS):
        answer = await client.post(path, content=content, headers={"content-type": content_type})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


@pytest.mark.parametrize("field", ["language", "timestamp_granularities[]", "keywords[]", "known_speaker_names[]"])
async def test_translation_rejects_transcription_fields(client: httpx.AsyncClient, field: str) -> None:
    answer = await client.post(TRANSLATIONS, **upload(**{field: "en"}))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)


async def test_missing_file_is_named(client: httpx.AsyncClient) -> None:
    answer = await client.post(PATH, data={"model": "whisper-1"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "file")


@pytest.mark.parametrize("content", [b"", b"this is no recording at all", b"RIFF\x24\x00\x00\x00WAVEfmt "])
async def test_invalid_audio_leaves_no_files(client: httpx.AsyncClient, service: Service, content: bytes) -> None:
    answer = await client.post(PATH, files={"file": ("a.wav", content)}, data={"model": "whisper-1"})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"
    left = [path for folder in ("blobs", "tmp") for path in service.settings.data_dir.glob(f"{folder}/*")]
    assert not left


async def test_models(client: httpx.AsyncClient) -> None:
    models = (await client.get("/v1/models")).json()["data"]
    assert [model["id"] for model in models] == ["whisper-nano", "whisper-1"]
    assert (await client.get("/v1/models/whisper-1")).json() == models[1]
    assert (await client.get("/v1/models/none")).status_code == 404
    assert all("spoken digits only" in model["warning"] for model in models)


class TestKeys:
    @pytest.fixture
    def args(self) -> dict[str, Any]:
        return {"api_keys": ["one", "two"]}

    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({}, 401),
            ({"Authorization": "Bearer three"}, 401),
            ({"Authorization": "Bearer two"}, 200),
            ({"x-admin-api-key": "one"}, 200),
            ({"x-admin-api-key": "ön".encode()}, 401),
        ],
    )
    async def test_api_key_is_required(
        self, client: httpx.AsyncClient, headers: dict[str, str | bytes], status: int
    ) -> None:
        for path in ("/v1/models", "/v1/jobs"):
            assert (await client.get(path, headers=headers)).status_code == status
        for path in ("/healthz", "/docs", "/openapi.json"):
            assert (await client.get(path)).status_code == 200

    async def test_api_key_is_checked_before_the_body(self, client: httpx.AsyncClient) -> None:
        headers = {"content-type": "multipart/form-data; no boundary"}
        assert (await client.post(PATH, content=b"x", headers=headers)).status_code == 401


class TestLimits:
    @pytest.fixture
    def args(self) -> dict[str, Any]:
        return {"limits": {"max_upload_bytes": 30_000, "max_audio_s": 2}}

    async def test_body_over_the_limit(self, client: httpx.AsyncClient) -> None:
        answer = await client.post(PATH, **upload("es.wav"))
        assert (answer.status_code, "30000 bytes" in answer.json()["error"]["message"]) == (413, True)

    async def test_body_of_undeclared_length_over_the_limit(self, client: httpx.AsyncClient) -> None:
        def body() -> Iterator[bytes]:
            yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
            for _ in range(70):
                yield b"0" * 1000

        async def chunks() -> Any:
            for piece in body():
                yield piece

        headers = {"content-type": "multipart/form-data; boundary=x"}
        answer = await client.post(PATH, content=chunks(), headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large"), answer.text

    async def test_recording_over_the_limit(self, client: httpx.AsyncClient) -> None:
        answer = await client.post(PATH, **upload("en.mp3"))
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "audio_too_long")
