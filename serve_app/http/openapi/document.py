"""The parts of the OpenAPI document that FastAPI can't derive: examples, headers, errors."""

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
Entries = dict[int | str, OpenApiEntry]
"""Of answers, by their statuses."""

EVERYWHERE = (400, 401, 413, 415, 431, 503)
"""Statuses that any path may answer with."""

HEADERS = {
    "Location": "Where to ask for what becomes of it.",
    "Preference-Applied": "Which preference was followed; absent: none.",
    "Retry-After": "Seconds to wait before it is sent again.",
    "WWW-Authenticate": "How to say who it is.",
    "X-Inference-Id": "The inference, which is the job.",
    "X-User-Request-ID": "The request, which is the job where there is one.",
    "x-request-id": "Names the request in the logs.",
    "x-should-retry": "`false`: OpenAI's clients don't send it again.",
}
"""Descriptions of response headers."""


def headers_of(*names: str) -> OpenApiEntry:
    """The OpenAPI entries of headers."""
    return {name: {"description": HEADERS[name], "schema": {"type": "string"}} for name in names}


def response(description: str, *examples: Any, headers: tuple[str, ...] = (), **entry: Any) -> OpenApiEntry:
    """The OpenAPI entry of an answer: JSON such as the examples, with those headers."""
    # As text until `customized_openapi`: of an object FastAPI would leave out what is null.
    named = {str(number): {"value": json.dumps(example)} for number, example in enumerate(examples, 1)}
    content = {"application/json": {"examples": named}}
    return {"description": description, "content": content, "headers": headers_of(*headers), **entry}


def error_responses(render: Callable[[ServiceError], Response], model: type[BaseModel], *statuses: int) -> Entries:
    """The OpenAPI entries of errors, in the shape that `render` gives them."""

    def entry(error: ServiceError) -> OpenApiEntry:
        rendered = render(error)
        headers = tuple(name for name in HEADERS if name in rendered.headers)
        return response(type(error).__doc__ or "", json.loads(bytes(rendered.body)), headers=headers, model=model)

    return {status: entry(ERRORS[status]) for status in sorted(set(statuses))}


def operations(document: OpenApiEntry) -> Iterator[tuple[str, str, OpenApiEntry]]:
    """Every path and method of an OpenAPI document, and what it says of them."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def customized_openapi(app: FastAPI) -> Callable[[], OpenApiEntry]:
    """Return a replacement for `app.openapi`: FastAPI's document without its 422 responses, which are 400 here."""
    make = app.openapi

    @cache
    def document() -> OpenApiEntry:
        found = make()
        for _, _, operation in operations(found):
            if "HTTPValidationError" in str(operation["responses"].get("422")):
                del operation["responses"]["422"]
            for status, answer in operation["responses"].items():
                _complete(status, answer)
        for name in ("HTTPValidationError", "ValidationError"):
            found.get("components", {}).get("schemas", {}).pop(name, None)
        return found

    return document


def _complete(status: str, answer: OpenApiEntry) -> None:
    answer.setdefault("headers", {}).update(headers_of("x-request-id"))
    content = answer.get("content", {})
    if not status.startswith("2") and "text/event-stream" in content:  # errors of a stream are none
        content["application/json"] = content.get("application/json", {}) | content.pop("text/event-stream")
    for example in content.get("application/json", {}).get("examples", {}).values():
        example["value"] = json.loads(example["value"])
