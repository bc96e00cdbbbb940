"""OpenAI's audio API: `/v1/audio/transcriptions`, `/v1/audio/translations` and `/v1/models`."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Form, Path, Response
from fastapi.responses import JSONResponse
from fastapi.sse import EventSourceResponse, format_sse_event
from pydantic import BaseModel

from serve_app.api import keep_alive
from serve_app.api.bodies import PlainText, VerboseText
from serve_app.api.context import OwnerDep, ServiceDep
from serve_app.api.document import answers, headed
from serve_app.api.errors import body_of, known, responses
from serve_app.api.examples import QUEUED, TRANSCRIPT
from serve_app.api.forms import unrepeated
from serve_app.api.prefer import Preferred, PreferredDep
from serve_app.api.speech import SpeechForm, TranscriptionForm, TranslationForm
from serve_app.api.uploads import store
from serve_app.formats import MEDIA_TYPES, Format, render
from serve_app.jobs.view import JobView, view
from serve_app.options import JobRequest, TranscriptionOptions
from serve_app.service import Service
from serve_app.subtitles import PLAIN, Layout
from serve_app.telling import telling
from serve_app.transcript import Said, Tell, Transcript

router = APIRouter(prefix="/v1", tags=["openai"])

MULTIPART = Form(media_type="multipart/form-data")


def _event(item: Said | Transcript) -> bytes:
    if isinstance(item, Transcript):
        done = render(item, "json")
        assert isinstance(done, dict)
        return _encoded({"type": "transcript.text.done"} | done)
    event: dict[str, Any] = {"type": "transcript.text.delta", "delta": item.text}
    if item.logprobs is not None:
        event["logprobs"] = [token.model_dump() for token in item.logprobs]
    return _encoded(event)


def _encoded(data: dict[str, Any], event: str | None = None) -> bytes:
    return format_sse_event(data_str=json.dumps(data, ensure_ascii=False), event=event)


_TEXTS: dict[str, Any] = {
    media_type: {"example": render(TRANSCRIPT, form)}
    for form, media_type in MEDIA_TYPES.items()
    if media_type != "application/json"
}
_JSON = answers(
    "In the format asked for.",
    render(TRANSCRIPT, "json"),
    render(TRANSCRIPT, "verbose_json"),
    model=PlainText | VerboseText,
)
RENDERED = _JSON | {"content": _JSON["content"] | _TEXTS}
"""The OpenAPI entry of `respond`."""

_STREAM = {
    "text/event-stream": {
        "example": "".join(_event(item).decode() for item in (Said(text="three one"), Said(text=" four"), TRANSCRIPT))
    }
}
_GIVEN = ("Location", "Preference-Applied")
_ANSWERS = responses(404, 408, 409, 429) | {
    200: RENDERED | {"content": RENDERED["content"] | _STREAM, "headers": headed(*_GIVEN)},
    202: answers(
        "It runs in the background, as preferred.", view(QUEUED).model_dump(mode="json"), headers=_GIVEN, model=JobView
    ),
}


@router.post(
    "/audio/transcriptions",
    summary="Transcribe a file and wait for the text, or follow it",
    responses=_ANSWERS,
    dependencies=[Depends(unrepeated)],
)
async def transcriptions(
    service: ServiceDep, owner: OwnerDep, form: Annotated[TranscriptionForm, MULTIPART], preferred: PreferredDep
) -> Response:
    return await _answer(service, owner, form, form.options(), preferred)


@router.post(
    "/audio/translations",
    summary="Translate a file into English and wait for the text, or follow it",
    responses=_ANSWERS,
    dependencies=[Depends(unrepeated)],
)
async def translations(
    service: ServiceDep, owner: OwnerDep, form: Annotated[TranslationForm, MULTIPART], preferred: PreferredDep
) -> Response:
    return await _answer(service, owner, form, form.options(), preferred)


async def _answer(
    service: Service, owner: str, form: SpeechForm, options: TranscriptionOptions, preferred: Preferred
) -> Response:
    request = JobRequest(source=await store(service.blobs, form.file), options=options)
    if preferred.in_background and not form.stream:  # a stream's first event is there before its last in any case
        waited = await preferred.waited(service, await service.submit(request, owner=owner))
        headers = waited.headers | {"Location": f"/v1/jobs/{waited.job.id}"}
        if not waited.ended:
            return JSONResponse(view(waited.job).model_dump(mode="json"), 202, headers)
        answer = respond(await service.outcome(waited.job), form.response_format)
        answer.headers.update(headers)
        return answer
    if not form.stream:
        return respond(await service.transcribe(request, owner), form.response_format)

    async def work(tell: Tell) -> Transcript:
        return await service.transcribe(request, owner, tell=tell)

    told = telling(work)
    first = asyncio.ensure_future(anext(told))
    try:
        # What goes wrong before there is a text has a status of its own, unless that takes too long for a proxy.
        done, _ = await asyncio.wait({first}, timeout=keep_alive.KEEP_ALIVE_S)
    except asyncio.CancelledError:
        first.cancel()
        raise
    for early in done:
        early.result()
    return EventSourceResponse(
        keep_alive.kept_alive(_events(first, told)), headers={"cache-control": "no-cache", "x-accel-buffering": "no"}
    )


async def _events(first: Awaitable[Said | Transcript], rest: AsyncIterator[Said | Transcript]) -> AsyncGenerator[bytes]:
    """A text as OpenAI's events."""
    try:
        yield _event(await first)
        async for item in rest:
            yield _event(item)
    except Exception as error:
        yield _encoded({"type": "error"} | body_of(known(error, "a streamed text")).model_dump(), "error")


def respond(transcript: Transcript, form: Format, layout: Layout = PLAIN) -> Response:
    """A transcript as an HTTP answer. Raises InvalidRequest as `render` does."""
    body = render(transcript, form, layout)
    if isinstance(body, str):
        return Response(body, media_type=f"{MEDIA_TYPES[form]}; charset=utf-8")
    return JSONResponse(body)


class Model(BaseModel):
    """A name that requests may call the model by."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "whisper-serve"


class ModelList(BaseModel):
    """All names of all models."""

    object: Literal["list"] = "list"
    data: list[Model]


_MODEL = Model(id="whisper-1")
_MODELS = ModelList(data=[_MODEL]).model_dump()


@router.get("/models", summary="The models served here", responses=responses() | {200: answers("All.", _MODELS)})
async def models(service: ServiceDep) -> ModelList:
    names = (name for model in service.settings.served_models for name in model.names)
    return ModelList(data=[Model(id=name) for name in names])


@router.get(
    "/models/{model:path}",
    summary="One model",
    responses=responses(404) | {200: answers("The model.", _MODEL.model_dump())},
)
async def model(service: ServiceDep, model: Annotated[str, Path(examples=["whisper-1"])]) -> Model:
    service.settings.served_model(model)
    return Model(id=model)
