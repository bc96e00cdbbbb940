"""The parts of the OpenAPI document that FastAPI can't derive: examples, headers and errors of responses."""

import json
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.responses import Response

from serve_app.errors import ServiceError
from serve_app.http.openapi.examples import ERRORS

OpenApiEntry = dict[str, Any]
Responses = dict[int | str, OpenApiEntry]
"""The entries of responses, by status: the `responses` of a FastAPI route."""

COMMON_STATUSES = (400, 401, 413, 415, 431, 503)
"""Error statuses that any path may answer with."""

HEADERS = {
    "Location": "The URL of the job, or of its result.",
    "Preference-Applied": "The preference that was applied; absent if none was.",
    "Retry-After": "Seconds to wait before the request is sent again.",
    "WWW-Authenticate": "The authentication scheme to use.",
    "X-Inference-Id": "The id of the inference, which is the job's id.",
    "X-User-Request-ID": "The id of the request, which is the job's id if there is a job.",
    "x-request-id": "The id of the request in the logs.",
    "x-should-retry": "`false`: OpenAI's clients do not retry.",
}
"""Descriptions of response headers."""


def response_headers(*names: str) -> OpenApiEntry:
    """Return the OpenAPI entries of response headers."""
    return {name: {"description": HEADERS[name], "schema": {"type": "string"}} for name in names}


def response(description: str, *examples: Any, headers: tuple[str, ...] = (), **entry: Any) -> OpenApiEntry:
    """Return the OpenAPI entry of a JSON response with examples and headers."""
    # As text until `customized_openapi`: FastAPI would drop the nulls of an object.
    named = {str(number): {"value": json.dumps(example)} for number, example in enumerate(examples, 1)}
    content = {"application/json": {"examples": named}}
    return {"description": description, "content": content, "headers": response_headers(*headers), **entry}


def error_responses(render: Callable[[ServiceError], Response], model: type[BaseModel], *statuses: int) -> Responses:
    """Return the OpenAPI entries of errors as `render` formats them."""

    def entry(error: ServiceError) -> OpenApiEntry:
        rendered = render(error)
        headers = tuple(name for name in HEADERS if name in rendered.headers)
        return response(type(error).__doc__ or "", json.loads(bytes(rendered.body)), headers=headers, model=model)

    return {status: entry(ERRORS[status]) for status in sorted(set(statuses))}


def operations(document: OpenApiEntry) -> Iterator[tuple[str, str, OpenApiEntry]]:
    """Yield the path, method and entry of every operation of an OpenAPI document."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def customized_openapi(app: FastAPI) -> Callable[[], OpenApiEntry]:
    """Return a replacement for `app.openapi`: FastAPI's document without its 422 responses, as invalid requests are
    answered 400 here."""
    generate = app.openapi

    @cache
    def document() -> OpenApiEntry:
        found = generate()
        for _, _, operation in operations(found):
            if "HTTPValidationError" in str(operation["responses"].get("422")):
                del operation["responses"]["422"]
            for status, entry in operation["responses"].items():
                _complete(status, entry)
        for name in ("HTTPValidationError", "ValidationError"):
            found.get("components", {}).get("schemas", {}).pop(name, None)
        return found

    return document


def _complete(status: str, entry: OpenApiEntry) -> None:
    entry.setdefault("headers", {}).update(response_headers("x-request-id"))
    content = entry.get("content", {})
    if not status.startswith("2") and "text/event-stream" in content:  # errors are JSON
        content["application/json"] = content.get("application/json", {}) | content.pop("text/event-stream")
    for example in content.get("application/json", {}).get("examples", {}).values():
        example["value"] = json.loads(example["value"])
