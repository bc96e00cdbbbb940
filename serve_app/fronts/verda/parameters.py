"""Parameters of Verda's requests: the deployment, the inference id, and the preference of the asynchronous layer."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Path, Request
from starlette.convertors import StringConvertor, register_url_convertor

from serve_app.fronts.verda.errors import INFERENCE_ID
from serve_app.http.prefer import Preferences, parse_prefer
from serve_app.schemas.job import ID_CHARACTERS, ID_PATTERN

DEFAULT_DEPLOYMENT = "whisper"
"""The deployment in the URLs of a response to a request that named none."""

ASYNC_PREFERENCES = ("respond-async", "respond-async-proxy", "respond-async-container")
"""The preferences of the asynchronous layer; the first one of a request counts."""

_NAME = "[A-Za-z0-9][A-Za-z0-9._-]*"


class _DeploymentConvertor(StringConvertor):
    """A deployment's name in a path. There is a single service, which answers to any name."""

    regex = _NAME


register_url_convertor("deployment", _DeploymentConvertor())

Deployment = Annotated[
    str,
    Path(
        description="The deployment, as in the request's path. There is a single service, which answers to any name.",
        json_schema_extra={"pattern": f"^{_NAME}$"},
        examples=["whisper"],
    ),
]
InferenceId = Annotated[
    str, Header(alias=INFERENCE_ID, description="The `Id` in the response to the request.", examples=["call-17"])
]


@dataclass(frozen=True)
class RequestParameters:
    """The parameters of a request; `mode` is its preference of the asynchronous layer, if any."""

    deployment: str
    mode: str | None
    preferences: Preferences
    inference_id: str | None


def _request_parameters(
    request: Request,
    prefer: Annotated[
        list[str] | None,
        Header(
            alias="Prefer",
            description="`respond-async`: 202 at once, with the text at `/result`; or the text itself, if it is there "
            "within `wait=N` seconds. `respond-async-proxy`: an empty 202. `respond-async-container`: the same as no "
            "preference. Other preferences are ignored (RFC 7240).",
        ),
    ] = None,
    inference_id: Annotated[
        str | None,
        Header(
            alias=INFERENCE_ID,
            max_length=ID_CHARACTERS,
            pattern=ID_PATTERN,
            description="An id of your choice for an inference in the background. The same id and request again return "
            "the same job.",
        ),
    ] = None,
) -> RequestParameters:
    preferences = parse_prefer(prefer or ())
    return RequestParameters(
        deployment=request.path_params.get("deployment", DEFAULT_DEPLOYMENT),
        mode=next((name for name in preferences if name in ASYNC_PREFERENCES), None),
        preferences=Preferences(preferences),
        inference_id=inference_id,
    )


RequestParametersDep = Annotated[RequestParameters, Depends(_request_parameters)]


def document_deployment(deployment: Deployment) -> None:
    """Dependency that puts the deployment into the OpenAPI document of routes that read it from the request."""
