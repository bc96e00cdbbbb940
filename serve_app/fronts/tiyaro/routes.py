"""The routes of Tiyaro's API: `/v1/input/upload-url`, and submission and results below `/v1/async`."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from serve_app.errors import NotFound, UploadNotFound
from serve_app.fronts.common.signed_uploads import UploadBody, create_upload, parse_upload_url
from serve_app.fronts.tiyaro import openapi
from serve_app.fronts.tiyaro.errors import ERROR_FORMAT
from serve_app.fronts.tiyaro.schemas import (
    AsyncBody,
    AsyncQuery,
    Inference,
    SubmitResponse,
    Submitted,
    UploadQuery,
    UploadUrl,
)
from serve_app.http.body_limits import require_json
from serve_app.http.dependencies import JobIdPath, ServiceDep, base_url
from serve_app.http.prefer import PreferencesDep
from serve_app.net.ssrf import check_url
from serve_app.schemas.job import Job, JobState
from serve_app.schemas.request import JobRequest, Source, TranscriptionOptions, UploadSource, UrlSource
from serve_app.services.jobs import JobService
from serve_app.settings import ServedModel, Tier

SIZES = ("large", "medium", "small", "tiny")

router = APIRouter(prefix="/v1", tags=["tiyaro"], route_class=ERROR_FORMAT.route)


@router.post(
    "/input/upload-url",
    status_code=201,
    summary="Create a URL to put a recording to, as Tiyaro's clients request it",
    responses=openapi.UPLOAD_URL,
)
async def upload_url(
    service: ServiceDep, request: Request, query: Annotated[UploadQuery, Query()], body: UploadBody | None = None
) -> UploadUrl:
    return UploadUrl(upload_url={"PUT": create_upload(service, request).url})


@router.post(
    "/async/ent/tiyarofs/1/openai/whisper-{size}",
    status_code=202,
    summary="Submit a recording, as Tiyaro's clients do",
    dependencies=[Depends(require_json)],
    responses=openapi.SUBMIT,
)
async def submit(
    service: ServiceDep,
    request: Request,
    response: Response,
    size: Annotated[str, Path(json_schema_extra={"enum": list(SIZES)})],
    query: Annotated[AsyncQuery, Query()],
    body: AsyncBody,
    preferences: PreferencesDep,
) -> SubmitResponse:
    if size not in SIZES:
        raise NotFound(
            f"whisper-{size} is not served: size must be one of {', '.join(SIZES)}", "size", "model_not_found"
        )
    model = select_model(service.settings.served_models, size, query.service_tier)
    options = TranscriptionOptions(**body.input.model_dump(), model=model.id)
    try:
        job = await service.submit(JobRequest(source=_source(service, body.url), options=options))
    except UploadNotFound as error:
        raise UploadNotFound(error.message.replace("upload_id", "URL"), "URL", error.code) from None
    poll_url = f"{base_url(service, request)}/v1/async/requests/{job.id}"
    result = await preferences.wait_for(service, job)
    response.status_code = 200 if result.has_ended else 202
    response.headers.update(result.headers | {"Location": poll_url})
    state = await _inference(service, result.job)
    if not result.has_ended:
        state.status = "accepted"
    return SubmitResponse(response=Submitted(**state.model_dump(), urls={"GET": poll_url}))


def _source(service: JobService, url: str) -> Source:
    check_url(url, "URL")
    upload_id = parse_upload_url(service, url)
    return UrlSource(url=url) if upload_id is None else UploadSource(id=upload_id)


def select_model(models: Sequence[ServedModel], size: str, tier: Tier) -> ServedModel:
    """Return the model for a path's size and its service tier.

    A model of both, else of the size, else of the tier, else the first; the first of several equals. A model has a
    size if one of its names, without the part before the last slash, is `whisper-SIZE` or begins with `whisper-SIZE-`.
    """

    def has_size(model: ServedModel) -> bool:
        return any(f"{name.lower().rpartition('/')[2]}-".startswith(f"whisper-{size}-") for name in model.names)

    return max(models, key=lambda model: (has_size(model), model.tier == tier))


@router.get(
    "/async/requests/{request_id}",
    summary="Get the status of a recording, and its result",
    responses=openapi.INFERENCE,
)
async def inference(service: ServiceDep, request_id: JobIdPath) -> Inference:
    return await _inference(service, await service.get(request_id))


async def _inference(service: JobService, job: Job) -> Inference:
    transcript = await service.result(job.id) if job.state is JobState.SUCCEEDED else None
    return Inference.of(job, service.settings.model, transcript)
