"""Uploads by signed URLs: `/v1/uploads`. A job refers to an upload by its id."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.requests import ClientDisconnect

from serve_app.errors import InvalidRequest
from serve_app.fronts.common.signed_uploads import UPLOADS_PATH, PutQuery, UploadBody, UploadView, create_upload
from serve_app.fronts.native import openapi
from serve_app.fronts.native.schemas import StoredView
from serve_app.http.dependencies import ServiceDep

router = APIRouter(prefix=UPLOADS_PATH, tags=["uploads"])


@router.post(
    "",
    status_code=201,
    summary="Create a signed URL to put a recording to, for a later job",
    responses=openapi.CREATE_UPLOAD,
)
async def create(service: ServiceDep, request: Request, body: UploadBody | None = None) -> UploadView:
    return create_upload(service, request)


@router.put(
    "/{upload_id}",
    summary="Put a recording to a URL made by POST /v1/uploads",
    responses=openapi.PUT_UPLOAD,
    openapi_extra={"requestBody": openapi.FILE_BODY},
)
async def put(service: ServiceDep, request: Request, upload_id: str, query: Annotated[PutQuery, Query()]) -> StoredView:
    try:
        source = await service.put_upload(query.token(upload_id), request.stream())
    except ClientDisconnect:
        raise InvalidRequest(
            "the upload was interrupted: send the whole file again", None, "upload_broke_off"
        ) from None
    return StoredView(id=upload_id, sha256=source.digest)
