"""Readiness of the ingress for each state of Serve."""

from types import SimpleNamespace
from typing import Any

import pytest
from ray import serve
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus

from deployments.ingress import Ingress


def raise_error() -> Any:
    raise RayServeException("the controller is away")


def status_of(**applications: ApplicationStatus) -> Any:
    found = {name: SimpleNamespace(status=state) for name, state in applications.items()}
    return lambda: SimpleNamespace(applications=found)


@pytest.mark.parametrize(
    ("get_status", "ready"),
    [
        (status_of(whisper=ApplicationStatus.RUNNING), True),
        (status_of(whisper=ApplicationStatus.DEPLOYING, other=ApplicationStatus.RUNNING), False),
        (status_of(other=ApplicationStatus.RUNNING), False),
        (raise_error, False),
    ],
)
async def test_readiness_while_serve_is_in_trouble(
    monkeypatch: pytest.MonkeyPatch, get_status: Any, ready: bool
) -> None:
    monkeypatch.setattr(serve, "status", get_status)
    ingress = object.__new__(Ingress)  # without the job manager, and so without a cluster
    ingress.app_name = "whisper"
    assert await ingress.ready() is ready
