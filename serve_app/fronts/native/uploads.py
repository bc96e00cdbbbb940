"""Uploads without a job's body: `/v1/uploads`, signed URLs to put recordings to."""

from datetime import UTC, datetime
from hashlib import sha256
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import ClientDisconnect
from yarl import URL

from serve_app.errors import InvalidRequest
from serve_app.http.dependencies import ServiceDep, base_url
from serve_app.http.error_handlers import responses
from serve_app.http.openapi.document import response
from serve_app.schemas.request import StrictModel
from serve_app.services.jobs import JobService
from serve_app.storage.signed_uploads import UploadToken

router = APIRouter(prefix="/v1/uploads", tags=["uploads"])


class UploadBody(StrictModel):
    """Nothing can be asked for yet."""

    model_config = ConfigDict(json_schema_extra={"example": {}})


class UploadView(BaseModel):
    """The signed URL of an upload, and the id to submit it by."""

    id: str = Field(description="A job's `upload_id`.")
    object: Literal["upload"] = "upload"
    url: str = Field(description="PUT the file's bytes here; no header and no API key is needed.")
    method: Literal["PUT"] = "PUT"
    expires_at: datetime = Field(description="When the URL stops working.")
    max_bytes: int


class PutQuery(StrictModel):
    """The query parameters of a signed URL."""

    expires: int = Field(description="Unix seconds.")
    signature: str


class StoredView(BaseModel):
    """A finished upload."""

    id: str
    object: Literal["upload"] = "upload"
    sha256: str = Field(description="Of the bytes, in hex.")


EXAMPLE = {
    "id": "0b5e6f3c9a1d4c7e8f2a6b4d1c3e5f70",
    "object": "upload",
    "url": "https://stt.example.com/v1/uploads/0b5e6f3c9a1d4c7e8f2a6b4d1c3e5f70?expires=1767225600&signature=9f86d081…",
    "method": "PUT",
    "expires_at": "2026-01-01T00:00:00Z",
    "max_bytes": 536870912,
}
_STORED = {"id": EXAMPLE["id"], "object": "upload", "sha256": sha256(b"(a recording)").hexdigest()}


@router.post(
    "",
    status_code=201,
    summary="A URL to put a recording to, for a job to come",
    responses=responses() | {201: response("An upload.", EXAMPLE)},
)
async def create(service: ServiceDep, request: Request, body: UploadBody | None = None) -> UploadView:
    return create_upload(service, request)


def create_upload(service: JobService, request: Request) -> UploadView:
    """A new upload, its URL as this client can reach it."""
    ticket = service.create_upload()
    base = base_url(service, request)
    return UploadView(
        id=ticket.id,
        url=f"{base}{router.prefix}/{ticket.id}?expires={ticket.expires}&signature={ticket.signature}",
        expires_at=datetime.fromtimestamp(ticket.expires, UTC),
        max_bytes=service.settings.limits.max_upload_bytes,
    )


def parse_upload_url(service: JobService, url: str) -> str | None:
    """The id of the upload that `invite` made this URL for; null for any other URL.

    Its signature tells, not its host: the service may be reached under several names.
    """
    parsed = URL(url)
    folder, _, upload_id = parsed.path.rpartition("/")
    try:
        query = PutQuery.model_validate(dict(parsed.query))
    except ValidationError:
        return None
    ticket = UploadToken(id=upload_id, expires=query.expires, signature=query.signature)
    return upload_id if folder.endswith(router.prefix) and service.is_valid_upload(ticket) else None


@router.put(
    "/{upload_id}",
    summary="Put a recording to a URL made by POST /v1/uploads",
    responses=responses(403) | {200: response("It is there.", _STORED)},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/octet-stream": {
                    "schema": {"type": "string", "format": "binary"},
                    "example": "(a recording)",
                }
            },
        },
    },
)
async def put(service: ServiceDep, request: Request, upload_id: str, query: Annotated[PutQuery, Query()]) -> StoredView:
    ticket = UploadToken(id=upload_id, expires=query.expires, signature=query.signature)
    try:
        source = await service.put_upload(ticket, request.stream())
    except ClientDisconnect:
        raise InvalidRequest(
            "the upload was interrupted: send the whole file again", None, "upload_broke_off"
        ) from None
    return StoredView(id=upload_id, sha256=source.digest)
