"""OpenMP settings of a replica's process, without Ray."""

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


def openmp_variables(code: str, **environment: str) -> dict[str, str]:
    """Return the variables that GNU's OpenMP prints when a process loads it."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    # End the process at once, because threads of the replica could keep it alive.
    process = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport os; os._exit(0)"],
        env=inherited | {"OMP_DISPLAY_ENV": "VERBOSE"} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(re.findall(r"^ *(?:\[.*\] )?(\w+) = '(.*)'$", process.stderr, re.MULTILINE))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="torch brings another OpenMP elsewhere")
@pytest.mark.parametrize("deployment", LOAD)
def test_openmp_spin_count(deployment: str) -> None:
    assert openmp_variables(LOAD[deployment])["GOMP_SPINCOUNT"] == str(SPIN_COUNT)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="torch brings another OpenMP elsewhere")
@pytest.mark.parametrize("chosen", [{"GOMP_SPINCOUNT": "77"}, {"OMP_WAIT_POLICY": "ACTIVE"}])
def test_openmp_settings_of_the_operator(chosen: dict[str, str]) -> None:
    variables = openmp_variables(
        "from serve_app.cores import limit_openmp_spinning; limit_openmp_spinning(); import torch", **chosen
    )
    assert variables["GOMP_SPINCOUNT"] != str(SPIN_COUNT)
    assert chosen.items() <= variables.items()
