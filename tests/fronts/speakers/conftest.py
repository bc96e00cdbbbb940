"""The service with diarization, by default with a pipeline that does not load."""

from typing import Any

import pytest

from tests import server
from tests.fronts.speakers.helpers import TwoHalvesPipeline
from tests.server import ARGS

ON = {"diarization": {"pipeline": "fake"}}


@pytest.fixture
def args() -> dict[str, Any]:
    return ARGS | ON


@pytest.fixture
def fake_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_speaker_pipeline", lambda _: TwoHalvesPipeline())
