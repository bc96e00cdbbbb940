"""OpenAI's audio API: `/v1/audio/transcriptions`, `/v1/audio/translations` and `/v1/models`."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Depends, Form, Path, Response
from fastapi.responses import JSONResponse
from fastapi.sse import EventSourceResponse

from serve_app.fronts.common.transcripts import transcript_response
from serve_app.fronts.common.uploads import file_chunks
from serve_app.fronts.openai import openapi
from serve_app.fronts.openai.forms import SpeechForm, TranscriptionForm, TranslationForm, with_openai_param_names
from serve_app.fronts.openai.schemas import Model, ModelList
from serve_app.fronts.openai.stream import encode_event, encode_item
from serve_app.http import sse
from serve_app.http.dependencies import ServiceDep
from serve_app.http.error_format import error_body
from serve_app.http.error_handlers import as_service_error
from serve_app.http.multipart import FormRoute, reject_repeated_fields
from serve_app.http.prefer import Preferences, PreferencesDep
from serve_app.jobs.view import to_view
from serve_app.rendering.formats import Format
from serve_app.schemas.request import BodySource, JobRequest, TranscriptionOptions
from serve_app.schemas.transcript import TextDelta, Transcript, TranscriptStream, final_transcript
from serve_app.services.jobs import JobService

router = APIRouter(prefix="/v1", tags=["openai"], route_class=FormRoute)

MULTIPART = Form(media_type="multipart/form-data")


@router.post(
    "/audio/transcriptions",
    summary="Transcribe a file, and return or stream the text",
    responses=openapi.TRANSCRIBE,
    dependencies=[Depends(reject_repeated_fields)],
)
async def transcriptions(
    service: ServiceDep, form: Annotated[TranscriptionForm, MULTIPART], preferences: PreferencesDep
) -> Response:
    return await _answer(service, form, form.options(), preferences)


@router.post(
    "/audio/translations",
    summary="Translate a file into English, and return or stream the text",
    responses=openapi.TRANSCRIBE,
    dependencies=[Depends(reject_repeated_fields)],
)
async def translations(
    service: ServiceDep, form: Annotated[TranslationForm, MULTIPART], preferences: PreferencesDep
) -> Response:
    return await _answer(service, form, form.options(), preferences)


async def _answer(
    service: JobService, form: SpeechForm, options: TranscriptionOptions, preferences: Preferences
) -> Response:
    request, audio = JobRequest(source=BodySource(), options=options), file_chunks(form.file)
    if preferences.respond_async and not form.stream:  # a stream begins at once in any case
        with with_openai_param_names():
            result = await preferences.wait_for(service, await service.submit(request, body=audio))
        headers = result.headers | {"Location": f"/v1/jobs/{result.job.id}"}
        if not result.has_ended:
            return JSONResponse(to_view(result.job).model_dump(mode="json"), 202, headers)
        with with_openai_param_names():
            answer = transcript_response(await service.outcome(result.job), form.response_format)
        answer.headers.update(headers)
        return answer
    items = service.transcribe(request, stream=form.stream, body=audio)
    if not form.stream:
        with with_openai_param_names():
            return transcript_response(await final_transcript(items), form.response_format)
    first = asyncio.ensure_future(anext(items))
    try:
        # An error before the first text has a status of its own, unless it takes too long for proxies.
        done, _ = await asyncio.wait({first}, timeout=sse.KEEP_ALIVE_S)
    except asyncio.CancelledError:
        first.cancel()
        raise
    with with_openai_param_names():
        for early in done:
            early.result()
    events = sse.with_keep_alive(_events(first, items, form.response_format))
    return EventSourceResponse(events, headers={"cache-control": "no-cache", "x-accel-buffering": "no"})


async def _events(
    first: Awaitable[TextDelta | Transcript], rest: TranscriptStream, form: Format
) -> AsyncGenerator[bytes]:
    """Yield a stream as OpenAI's events; an error is the last one. `first`: awaits its first item."""
    try:
        async with aclosing(rest):
            with with_openai_param_names():
                item = await first
            for event in encode_item(item, form):
                yield event
            async for item in rest:
                for event in encode_item(item, form):
                    yield event
    except Exception as error:
        yield encode_event(
            {"type": "error"} | error_body(as_service_error(error, "a streamed text")).model_dump(), "error"
        )


@router.get(
    "/models",
    summary="List the served models",
    responses=openapi.MODELS,
    response_model_exclude_none=True,
)
async def models(service: ServiceDep) -> ModelList:
    served = service.settings.served_models
    return ModelList(data=[Model.of(name, model) for model in served for name in model.names])


@router.get(
    "/models/{model:path}",
    summary="Get a model",
    responses=openapi.MODEL,
    response_model_exclude_none=True,
)
async def model(service: ServiceDep, model: Annotated[str, Path(examples=["whisper-1"])]) -> Model:
    return Model.of(model, service.settings.served_model(model))
