"""Signed URLs of uploads: `/v1/uploads/{id}?expires=…&signature=…`."""

from datetime import UTC, datetime
from typing import Literal

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from yarl import URL

from serve_app.http.dependencies import base_url
from serve_app.schemas.request import StrictModel
from serve_app.services.jobs import JobService
from serve_app.storage.signed_uploads import UploadToken

UPLOADS_PATH = "/v1/uploads"


class UploadBody(StrictModel):
    """An empty object: an upload has no options yet."""

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

    def token(self, upload_id: str) -> UploadToken:
        """Return the token that these parameters and the path's id form."""
        return UploadToken(id=upload_id, expires=self.expires, signature=self.signature)


UPLOAD_EXAMPLE = {
    "id": "0b5e6f3c9a1d4c7e8f2a6b4d1c3e5f70",
    "object": "upload",
    "url": "https://stt.example.com/v1/uploads/0b5e6f3c9a1d4c7e8f2a6b4d1c3e5f70?expires=1767225600&signature=9f86d081…",
    "method": "PUT",
    "expires_at": "2026-01-01T00:00:00Z",
    "max_bytes": 536870912,
}
"""An UploadView in the OpenAPI document."""


def create_upload(service: JobService, request: Request) -> UploadView:
    """Create an upload. Its URL has the host by which the client of this request reaches the service."""
    token = service.create_upload()
    base = base_url(service, request)
    return UploadView(
        id=token.id,
        url=f"{base}{UPLOADS_PATH}/{token.id}?expires={token.expires}&signature={token.signature}",
        expires_at=datetime.fromtimestamp(token.expires, UTC),
        max_bytes=service.settings.limits.max_upload_bytes,
    )


def parse_upload_url(service: JobService, url: str) -> str | None:
    """Return the id of the upload that `create_upload` made this URL for; None for any other URL.

    The signature decides, not the host, as the service may be reached under several names.
    """
    parsed = URL(url)
    folder, _, upload_id = parsed.path.rpartition("/")
    try:
        query = PutQuery.model_validate(dict(parsed.query))
    except ValidationError:
        return None
    is_upload = folder.endswith(UPLOADS_PATH) and service.is_valid_upload(query.token(upload_id))
    return upload_id if is_upload else None
