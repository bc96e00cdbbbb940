"""The ingress, where Serve itself is in trouble."""

from types import SimpleNamespace
from typing import Any

import pytest
from ray import serve
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus

from deployments.ingress import Ingress


def away() -> Any:
    raise RayServeException("the controller is away")


def status(**applications: ApplicationStatus) -> Any:
    found = {name: SimpleNamespace(status=status) for name, status in applications.items()}
    return lambda: SimpleNamespace(applications=found)


@pytest.mark.parametrize(
    ("says", "ready"),
    [
        (status(whisper=ApplicationStatus.RUNNING), True),
        (status(whisper=ApplicationStatus.DEPLOYING, other=ApplicationStatus.RUNNING), False),
        (status(other=ApplicationStatus.RUNNING), False),
        (away, False),
    ],
)
async def test_what_serve_cannot_say_is_not_ready(monkeypatch: pytest.MonkeyPatch, says: Any, ready: bool) -> None:
    monkeypatch.setattr(serve, "status", says)
    ingress = object.__new__(Ingress)  # without the job manager, and so without a cluster
    ingress.app_name = "whisper"
    assert await ingress.ready() is ready
