"""Logs and metrics as Ray collects them."""

import re
import time
from pathlib import Path

import httpx
import ray

from tests.cluster import Running

AUDIO = (Path(__file__).parent.parent / "data" / "en.mp3").read_bytes()
EXPORT_S = 120.0
"""Ray exports metrics every ten seconds; other tests may run beside this one."""


def scrape() -> str:
    (node,) = ray.nodes()
    return httpx.get(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics").text


def unmatched(patterns: set[str], text: str) -> set[str]:
    return {pattern for pattern in patterns if not re.search(pattern, text)}


def test_metrics_are_exported_to_prometheus(http: httpx.Client) -> None:
    files = {"file": ("en.mp3", AUDIO)}
    assert http.post("/v1/audio/transcriptions", files=files, data={"model": "whisper-1"}).status_code == 200
    # One metric of each process: Ingress, Transcriber, Whisper and the job manager, which is no deployment.
    expected = {
        r'ray_stt_http_requests_total\{.*front="openai".*route="/v1/audio/transcriptions"',
        r'ray_stt_http_request_seconds_bucket\{.*le="0.1"',
        r'ray_stt_audio_seconds_total\{.*deployment="Transcriber".*model="whisper-nano"',
        r'ray_stt_stage_seconds_count\{.*stage="transcribe"',
        r'ray_stt_windows_total\{.*outcome="done"',
        r"ray_stt_waiting_windows\{.*model=",
        r'ray_stt_jobs_ended_total\{.*mode="sync".*state="succeeded"',
    }
    deadline = time.monotonic() + EXPORT_S
    while missing := unmatched(expected, scrape()):
        assert time.monotonic() < deadline, missing
        time.sleep(1)


def test_log_lines_have_the_ids_of_request_and_job(http: httpx.Client, running: Running) -> None:
    answer = http.post("/v1/jobs", files={"file": ("en.mp3", AUDIO)}, headers={"x-request-id": "seen"})
    assert answer.headers["x-request-id"] == "seen"
    job_id = answer.json()["id"]
    logs = running.data_dir.parent / "ray" / "session_latest" / "logs"
    deadline = time.monotonic() + EXPORT_S
    lines: list[str] = []
    while not any("succeeded" in line for line in lines):
        assert time.monotonic() < deadline, lines
        lines = [line for path in logs.glob("worker-*.out") for line in path.read_text().splitlines() if job_id in line]
        time.sleep(0.2)
    assert any(f"[request_id=seen job_id={job_id}] the job is queued" in line for line in lines)
