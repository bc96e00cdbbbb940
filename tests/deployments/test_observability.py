"""Logs and metrics as Ray collects them."""

import time
from pathlib import Path

import httpx
import ray

from tests.cluster import Running

AUDIO = (Path(__file__).parent.parent / "data" / "en.mp3").read_bytes()
EXPORT_S = 30.0
"""Ray exports metrics every ten seconds."""


def scrape() -> str:
    (node,) = ray.nodes()
    return httpx.get(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics").text


def test_metrics_are_exported_to_prometheus(http: httpx.Client) -> None:
    files = {"file": ("en.mp3", AUDIO)}
    assert http.post("/v1/audio/transcriptions", files=files, data={"model": "whisper-1"}).status_code == 200
    expected = {
        'ray_stt_http_requests_total{front="openai"': "Ingress",
        "ray_stt_http_request_seconds_bucket": "Ingress",
        "ray_stt_audio_seconds_total{": "Transcriber",
        "ray_stt_stage_seconds_count": "Transcriber",
        "ray_stt_windows_total{": "Whisper",
        "ray_stt_waiting_windows{": "Whisper",
        "ray_stt_jobs_ended_total{": "",  # the job manager is no deployment
    }
    deadline = time.monotonic() + EXPORT_S
    while missing := {name for name in expected if name not in scrape()}:
        assert time.monotonic() < deadline, missing
        time.sleep(1)
    print(scrape())


def test_a_job_s_lines_have_its_id_in_every_process(http: httpx.Client, running: Running) -> None:
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
