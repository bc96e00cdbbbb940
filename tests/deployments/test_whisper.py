"""A replica's process, without Ray: OpenMP says how it was set up when it is loaded."""

import os
import re
import subprocess
import sys

import pytest

from serve_app.cores import SPIN_COUNT

LOAD = {
    "Whisper": """
from pathlib import Path
from deployments.whisper import Whisper
from serve_app.settings import LogSettings, ServedModel, WhisperSettings
Whisper(ServedModel(id="whisper-nano"), WhisperSettings(device="cpu", threads=1), Path("models"), LogSettings())
""",
    "Diarizer": """
from deployments.diarizer import Diarizer
from serve_app.settings import AppSettings
Diarizer(AppSettings.model_validate({"diarization": {"pipeline": "diarization-nano", "device": "cpu"}}))
""",
}


def openmp(code: str, **environment: str) -> dict[str, str]:
    """The variables that GNU's OpenMP shows when a process loads it."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    # Whatever else the process imports, OpenMP comes with torch: no thread of the replica's may outlive this.
    made = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport os; os._exit(0)"],
        env=inherited | {"OMP_DISPLAY_ENV": "VERBOSE"} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(re.findall(r"^ *(?:\[.*\] )?(\w+) = '(.*)'$", made.stderr, re.MULTILINE))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="torch brings another OpenMP elsewhere")
@pytest.mark.parametrize("deployment", LOAD)
def test_openmp_spins_briefly(deployment: str) -> None:
    assert openmp(LOAD[deployment])["GOMP_SPINCOUNT"] == str(SPIN_COUNT)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="torch brings another OpenMP elsewhere")
@pytest.mark.parametrize("chosen", [{"GOMP_SPINCOUNT": "77"}, {"OMP_WAIT_POLICY": "ACTIVE"}])
def test_what_the_operator_says_stays(chosen: dict[str, str]) -> None:
    shown = openmp("from serve_app.cores import limit_openmp_spinning; limit_openmp_spinning(); import torch", **chosen)
    assert shown["GOMP_SPINCOUNT"] != str(SPIN_COUNT)
    assert chosen.items() <= shown.items()
