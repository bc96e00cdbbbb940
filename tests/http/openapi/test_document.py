"""The OpenAPI document: all routes, with examples that match their schemas."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from jsonschema import Draft202012Validator
from starlette.routing import BaseRoute

from serve_app.asgi import create_app
from serve_app.fronts.registry import FRONTS
from serve_app.http.openapi.document import operations
from serve_app.services.transcription import Service

SHAPES = {"openai": {"error"}, "tiyaro": {"code", "message"}}
"""The members of an error's body by front; other fronts have `detail`."""

Operation = tuple[str, str, dict[str, Any]]


@pytest.fixture
def document(app: FastAPI) -> dict[str, Any]:
    return app.openapi()


@pytest.fixture
def all_operations(document: dict[str, Any]) -> list[Operation]:
    return list(operations(document))


def examples(body: dict[str, Any], document: dict[str, Any]) -> list[Any]:
    """Return the examples of a media type and its schema."""
    schema = body.get("schema", {})
    parts = [body]
    for part in (schema, *schema.get("anyOf", ())):
        parts.append(document["components"]["schemas"][part["$ref"].split("/")[-1]] if "$ref" in part else part)
    named = [example["value"] for example in body.get("examples", {}).values()]
    return named + [part["example"] for part in parts if "example" in part]


def validator(schema: dict[str, Any], document: dict[str, Any]) -> Draft202012Validator:
    """Return a validator that resolves references in the document."""
    return Draft202012Validator(schema | {"components": document["components"]})


def routes(of: list[BaseRoute]) -> Iterator[APIRoute]:
    for route in of:
        if isinstance(route, APIRoute):
            yield route
        elif (inner := getattr(route, "original_router", None)) is not None:
            yield from routes(inner.routes)


def test_all_routes_are_included(service: Service, all_operations: list[Operation]) -> None:
    operations = {operation["operationId"] for _, _, operation in all_operations}
    assert len(operations) == len(all_operations)
    count = sum(len(route.methods) for route in routes(create_app(service).routes) if route.include_in_schema)
    assert count == len(all_operations) >= 30
    for path, method, operation in all_operations:
        assert operation["summary"], (path, method)


def test_request_examples_match_their_schemas(all_operations: list[Operation], document: dict[str, Any]) -> None:
    for path, method, operation in all_operations:
        for media_type, body in operation.get("requestBody", {}).get("content", {}).items():
            found = examples(body, document)
            assert found, (path, method, media_type)
            for example in found:
                validator(body["schema"], document).validate(example)


def test_response_examples_match_their_schemas(all_operations: list[Operation], document: dict[str, Any]) -> None:
    for path, method, operation in all_operations:
        for status, answer in operation["responses"].items():
            assert answer["description"], (path, method, status)
            assert answer["content"], (path, method, status)
            for media_type, body in answer["content"].items():
                found = examples(body, document)
                assert found, (path, method, status, media_type)
                assert media_type != "application/json" or body["schema"], (path, method, status)
                for example in found:
                    validator(body.get("schema", {}), document).validate(example)


def test_error_examples_have_the_format_of_their_front(
    all_operations: list[Operation], document: dict[str, Any]
) -> None:
    for path, method, operation in all_operations:
        errors = {status for status in operation["responses"] if status >= "400"}
        tag = operation["tags"][0]
        common = {"413", "415", "431"}
        required = common if tag == "health" else {*common, "400", "401", "503"}
        assert errors >= required, (path, method)
        members = {"error"} if tag in ("jobs", "uploads", "health") else SHAPES.get(tag, {"detail"})
        for status in errors - {"500"}:  # /generate_webhook has a 500 of its own
            for example in examples(operation["responses"][status]["content"]["application/json"], document):
                assert set(example) in (
                    members,
                    {"status"} if path.endswith(("health", "check", "readyz")) else members,
                ), path


def test_validation_errors_of_fastapi_are_removed(document: dict[str, Any]) -> None:
    assert "HTTPValidationError" not in str(document)
    assert not {"HTTPValidationError", "ValidationError"} & set(document["components"]["schemas"])
    with_422 = {path for path, _, operation in operations(document) if "422" in operation["responses"]}
    assert with_422 >= {"/v1/jobs", "/", "/generate"}  # for an id of another request
    assert not [path for path in with_422 if path.endswith(("/transcript", "/models", "/infer"))]


def test_headers_are_described(document: dict[str, Any]) -> None:
    paths = document["paths"]
    for path, status, names in (
        ("/v1/jobs", "202", {"Location", "Preference-Applied"}),
        ("/v1/audio/transcriptions", "202", {"Location", "Preference-Applied"}),
        ("/generate", "202", {"Location", "Preference-Applied", "X-Inference-Id"}),
        ("/infer", "201", {"Location", "Preference-Applied", "X-User-Request-ID"}),
        ("/infer", "400", {"X-User-Request-ID"}),
        ("/v1/jobs", "429", {"Retry-After"}),
        ("/v1/jobs", "401", {"WWW-Authenticate"}),
        ("/v1/audio/translations", "408", {"x-should-retry"}),
    ):
        answer = paths[path]["post"]["responses"][status]
        assert set(answer["headers"]) == names | {"x-request-id"}, (path, status)


@pytest.mark.parametrize("args", [{"fronts": [front.name]} for front in FRONTS if front.is_optional])
def test_disabled_fronts_are_excluded(all_operations: list[Operation], args: dict[str, list[str]]) -> None:
    tags = {
        tag.replace("-whisper", "").replace("-", "_") for _, _, operation in all_operations for tag in operation["tags"]
    }
    assert tags == {"jobs", "uploads", "health", *args["fronts"]}
