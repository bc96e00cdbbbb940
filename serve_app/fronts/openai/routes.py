"""OpenAI's audio API: `/v1/audio/transcriptions`, `/v1/audio/translations` and `/v1/models`."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterator
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Depends, Form, Path, Response
from fastapi.responses import JSONResponse
from fastapi.sse import EventSourceResponse, format_sse_event
from pydantic import BaseModel, Field

from serve_app.fronts.bodies import DiarizedText, PlainText, VerboseText
from serve_app.fronts.openai.forms import SpeechForm, TranscriptionForm, TranslationForm, with_openai_param_names
from serve_app.fronts.uploads import file_chunks
from serve_app.http import sse
from serve_app.http.dependencies import ServiceDep
from serve_app.http.error_handlers import as_service_error, body_of, responses
from serve_app.http.multipart import FormRoute, reject_repeated_fields
from serve_app.http.openapi.document import headers_of, response
from serve_app.http.openapi.examples import DIARIZED, QUEUED, TRANSCRIPT
from serve_app.http.prefer import Preferences, PreferredDep
from serve_app.jobs.view import JobView, to_view
from serve_app.models import EMBEDDED_WARNINGS
from serve_app.pipeline.streaming import stream_results
from serve_app.rendering.formats import MEDIA_TYPES, SPEAKERS, Format, render
from serve_app.rendering.speaker_labels import diarized_segments
from serve_app.rendering.subtitles import PLAIN, Layout
from serve_app.schemas.request import BodySource, JobRequest, TranscriptionOptions
from serve_app.schemas.transcript import OnDelta, TextDelta, Transcript
from serve_app.services.jobs import JobService
from serve_app.settings import ServedModel

router = APIRouter(prefix="/v1", tags=["openai"], route_class=FormRoute)

MULTIPART = Form(media_type="multipart/form-data")


def _of(item: TextDelta | Transcript, form: Format) -> Iterator[bytes]:
    if isinstance(item, Transcript):
        if form in SPEAKERS:  # which are known only now
            yield from map(_encoded, diarized_segments(item))
        done = render(item, "json")
        assert isinstance(done, dict)
        yield _encoded({"type": "transcript.text.done"} | done)
        return
    event: dict[str, Any] = {"type": "transcript.text.delta", "delta": item.text}
    if item.logprobs is not None:
        event["logprobs"] = [token.model_dump() for token in item.logprobs]
    yield _encoded(event)


def _encoded(data: dict[str, Any], event: str | None = None) -> bytes:
    return format_sse_event(data_str=json.dumps(data, ensure_ascii=False), event=event)


_JSON = response(
    "In the format asked for.",
    render(TRANSCRIPT, "json"),
    render(TRANSCRIPT, "verbose_json"),
    render(DIARIZED, "diarized_json"),
    model=PlainText | VerboseText | DiarizedText,
)
_TEXTS: dict[str, Any] = {}
for form, media_type in MEDIA_TYPES.items():
    if media_type != "application/json":
        shown = render(DIARIZED if form in SPEAKERS else TRANSCRIPT, form)
        _TEXTS.setdefault(media_type, {"examples": {}})["examples"][form] = {"value": shown}
RENDERED = _JSON | {"content": _JSON["content"] | _TEXTS}
"""The OpenAPI entry of `respond`."""

_TOLD = (TextDelta(text="three one"), TextDelta(text=" four"), TRANSCRIPT)
_STREAM = {"text/event-stream": {"example": b"".join(e for item in _TOLD for e in _of(item, "json")).decode()}}
_GIVEN = ("Location", "Preference-Applied")
_ANSWERS = responses(404, 408, 409, 429) | {
    200: RENDERED | {"content": RENDERED["content"] | _STREAM, "headers": headers_of(*_GIVEN)},
    202: response(
        "It runs in the background, as preferred.",
        to_view(QUEUED).model_dump(mode="json"),
        headers=_GIVEN,
        model=JobView,
    ),
}


@router.post(
    "/audio/transcriptions",
    summary="Transcribe a file and wait for the text, or follow it",
    responses=_ANSWERS,
    dependencies=[Depends(reject_repeated_fields)],
)
async def transcriptions(
    service: ServiceDep, form: Annotated[TranscriptionForm, MULTIPART], preferred: PreferredDep
) -> Response:
    return await _answer(service, form, form.options(), preferred)


@router.post(
    "/audio/translations",
    summary="Translate a file into English and wait for the text, or follow it",
    responses=_ANSWERS,
    dependencies=[Depends(reject_repeated_fields)],
)
async def translations(
    service: ServiceDep, form: Annotated[TranslationForm, MULTIPART], preferred: PreferredDep
) -> Response:
    return await _answer(service, form, form.options(), preferred)


async def _answer(
    service: JobService, form: SpeechForm, options: TranscriptionOptions, preferred: Preferences
) -> Response:
    request, audio = JobRequest(source=BodySource(), options=options), file_chunks(form.file)
    if preferred.in_background and not form.stream:  # a stream's first event is there before its last in any case
        with with_openai_param_names():
            waited = await preferred.waited(service, await service.submit(request, body=audio))
        headers = waited.headers | {"Location": f"/v1/jobs/{waited.job.id}"}
        if not waited.ended:
            return JSONResponse(to_view(waited.job).model_dump(mode="json"), 202, headers)
        with with_openai_param_names():
            answer = respond(await service.outcome(waited.job), form.response_format)
        answer.headers.update(headers)
        return answer
    if not form.stream:
        with with_openai_param_names():
            return respond(await service.transcribe(request, body=audio), form.response_format)

    async def work(tell: OnDelta) -> Transcript:
        return await service.transcribe(request, tell=tell, body=audio)

    told = stream_results(work)
    first = asyncio.ensure_future(anext(told))
    try:
        # What goes wrong before there is a text has a status of its own, unless that takes too long for a proxy.
        done, _ = await asyncio.wait({first}, timeout=sse.KEEP_ALIVE_S)
    except asyncio.CancelledError:
        first.cancel()
        raise
    with with_openai_param_names():
        for early in done:
            early.result()
    events = sse.kept_alive(_events(first, told, form.response_format))
    return EventSourceResponse(events, headers={"cache-control": "no-cache", "x-accel-buffering": "no"})


async def _events(
    first: Awaitable[TextDelta | Transcript], rest: AsyncIterator[TextDelta | Transcript], form: Format
) -> AsyncGenerator[bytes]:
    """A text as OpenAI's events."""
    try:
        with with_openai_param_names():
            item = await first
        for event in _of(item, form):
            yield event
        async for item in rest:
            for event in _of(item, form):
                yield event
    except Exception as error:
        yield _encoded({"type": "error"} | body_of(as_service_error(error, "a streamed text")).model_dump(), "error")


def respond(transcript: Transcript, form: Format, layout: Layout = PLAIN, name: str = "audio") -> Response:
    """A transcript as an HTTP answer. Raises InvalidRequest as `render` does."""
    body = render(transcript, form, layout, name)
    if isinstance(body, str):
        return Response(body, media_type=f"{MEDIA_TYPES[form]}; charset=utf-8")
    return JSONResponse(body)


class Model(BaseModel):
    """A name that requests may call the model by."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "whisper-serve"
    warning: str | None = Field(None, description="What who uses it must know; mostly absent.")

    @classmethod
    def of(cls, name: str, model: ServedModel) -> Self:
        return cls(id=name, warning=EMBEDDED_WARNINGS.get(model.checkpoint))


class ModelList(BaseModel):
    """All names of all models."""

    object: Literal["list"] = "list"
    data: list[Model]


_MODEL = Model(id="whisper-1")
_MODELS = ModelList(data=[_MODEL]).model_dump(exclude_none=True)


@router.get(
    "/models",
    summary="The models served here",
    responses=responses() | {200: response("All.", _MODELS)},
    response_model_exclude_none=True,
)
async def models(service: ServiceDep) -> ModelList:
    served = service.settings.served_models
    return ModelList(data=[Model.of(name, model) for model in served for name in model.names])


@router.get(
    "/models/{model:path}",
    summary="One model",
    responses=responses(404) | {200: response("The model.", _MODEL.model_dump(exclude_none=True))},
    response_model_exclude_none=True,
)
async def model(service: ServiceDep, model: Annotated[str, Path(examples=["whisper-1"])]) -> Model:
    return Model.of(model, service.settings.served_model(model))
