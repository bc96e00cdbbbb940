"""Diarization on the cluster."""

import subprocess
import sys
import time
from typing import Any

import httpx
import pytest

from tests.deployments.test_service import kill, minutes_of_speech, processes, wait_for_job

DIARIZER = "ray::ServeReplica:whisper:Diarizer"


def submit(http: httpx.Client, sound: bytes) -> str:
    answer = http.post("/v1/jobs", files={"file": sound}, data={"diarization": "{}"})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def get_transcript(http: httpx.Client, job_id: str) -> Any:
    # pyannote.audio takes long to import in a process that takes over on a busy machine.
    assert wait_for_job(http, job_id, within_s=200)["status"] == "succeeded"
    return http.get(f"/v1/jobs/{job_id}/transcript", params={"format": "verbose_json"}).json()


def test_job_with_speakers(http: httpx.Client) -> None:
    job = submit(http, minutes_of_speech(1))
    transcript = get_transcript(http, job)
    assert transcript["text"]
    assert not transcript.get("warnings")
    assert all(segment["speaker"] for segment in transcript["segments"])
    turns = http.get(f"/v1/jobs/{job}/transcript", params={"format": "rttm"})
    assert turns.text.startswith("SPEAKER ")


def test_killed_diarizer_does_not_fail_the_job(http: httpx.Client) -> None:
    job = submit(http, minutes_of_speech(5))
    time.sleep(1)
    killed_pid = kill(DIARIZER)
    transcript = get_transcript(http, job)
    assert transcript["text"]
    assert "speaker" in transcript["segments"][0] or "speakers" in transcript["warnings"][0]
    assert killed_pid not in processes(DIARIZER)


@pytest.mark.slow
def test_other_processes_do_not_import_pyannote() -> None:
    code = """
import sys
import deployments.app, serve_app.pipeline.transcribe, serve_app.asgi, serve_app.jobs.manager
import serve_app.whisper.engine.engine
sys.exit(bool({"pyannote.audio", "scipy", "lightning"} & set(sys.modules)))
"""
    subprocess.run([sys.executable, "-c", code], check=True)
