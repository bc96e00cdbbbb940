"""OpenAI's audio API: `/v1/audio/transcriptions` and `/v1/models`."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Response, UploadFile
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from serve_app.api.context import OwnerDep, ServiceDep
from serve_app.api.errors import invalid, responses
from serve_app.api.uploads import store
from serve_app.errors import InvalidRequest
from serve_app.formats import MEDIA_TYPES, Format, render
from serve_app.options import JobRequest, TranscriptionOptions
from serve_app.subtitles import PLAIN, Layout
from serve_app.transcript import Transcript

router = APIRouter(prefix="/v1", tags=["openai"])


class TranscriptionForm(BaseModel):
    """The fields of a transcription request; another field is refused."""

    model_config = ConfigDict(extra="forbid")

    file: UploadFile = Field(description="Any container FFmpeg reads; decided by content, not by name.")
    model: str = Field(description="A model id or alias of `GET /v1/models`.")
    language: str | None = Field(None, description="ISO-639-1 code or English name; absent: detected.")
    prompt: str | None = Field(None, description="Text that conditions every window.")
    response_format: Format = "json"
    temperature: float = Field(
        0, description="0 to 1. 0: the likeliest text, and hotter where it fails Whisper's thresholds."
    )
    timestamp_granularities: list[Literal["segment", "word"]] = Field(
        [], alias="timestamp_granularities[]", description="Needs `response_format=verbose_json`."
    )
    include: list[Literal["logprobs"]] = Field([], alias="include[]", description="Needs `response_format=json`.")
    chunking_strategy: Literal["auto"] = "auto"
    stream: bool = Field(False, description="Only false.")

    @field_validator("stream")
    @classmethod
    def _only_the_default(cls, value: bool) -> bool:
        if value:
            raise ValueError("only false is supported")
        return value

    def options(self) -> TranscriptionOptions:
        """The same, as what every front parses into."""
        for field, needed in (("timestamp_granularities", "verbose_json"), ("include", "json")):
            if getattr(self, field) and self.response_format != needed:
                raise InvalidRequest(f"{field}[] needs response_format '{needed}'", f"{field}[]")
        try:
            return TranscriptionOptions(
                model=self.model,
                language=self.language,
                prompt=self.prompt,
                temperature=self.temperature,
                timestamps="word" if "word" in self.timestamp_granularities else "segment",
                logprobs="logprobs" in self.include,
            )
        except ValidationError as error:
            raise invalid(error) from None


@router.post(
    "/audio/transcriptions",
    summary="Transcribe a file and wait for the text",
    responses=responses(404, 408)
    | {200: {"content": {"application/json": {}, "text/plain": {}}, "description": "In the format asked for."}},
)
async def transcriptions(service: ServiceDep, owner: OwnerDep, form: Annotated[TranscriptionForm, Form()]) -> Response:
    options = form.options()
    request = JobRequest(source=await store(service.blobs, form.file), options=options)
    return respond(await service.transcribe(request, owner), form.response_format)


def respond(transcript: Transcript, form: Format, layout: Layout = PLAIN) -> Response:
    """A transcript as an HTTP answer. Raises InvalidRequest as `render` does."""
    body = render(transcript, form, layout)
    if isinstance(body, str):
        return Response(body, media_type=f"{MEDIA_TYPES[form]}; charset=utf-8")
    return JSONResponse(body)


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "whisper-serve"}


@router.get("/models", summary="The models served here")
async def models(service: ServiceDep) -> dict[str, Any]:
    return {"object": "list", "data": [_model(name) for name in service.settings.model_names]}


@router.get("/models/{model:path}", summary="One model", responses=responses(404))
async def model(service: ServiceDep, model: str) -> dict[str, Any]:
    service.settings.check_model(model)
    return _model(model)
