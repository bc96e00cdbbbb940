"""Jobs on the cluster: cancellation, a new deployment of the application, and other drivers."""

import io
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import numpy as np
import pytest
import ray
from pydub import AudioSegment
from ray import serve

from serve_app.audio import SAMPLE_RATE
from serve_app.audio.decode import AudioDecoder
from serve_app.settings import LimitSettings
from tests.cluster import Running

DATA = Path(__file__).parent.parent / "data"
CANCEL_S = 2.0


@pytest.fixture(scope="module")
def hour_of_speech() -> bytes:
    """Return an hour of speech."""
    pcm = np.concatenate(list(AudioDecoder(DATA / "es.wav", LimitSettings())))
    sound = AudioSegment(pcm.tobytes(), sample_width=2, frame_rate=SAMPLE_RATE, channels=1)
    long = io.BytesIO()
    (sound * (3600 * SAMPLE_RATE // len(pcm))).export(long, format="wav")
    return long.getvalue()


@contextmanager
def run_receiver() -> Iterator[tuple[str, list[tuple[float, dict[str, str]]]]]:
    """Run a receiver of webhooks; yield its URL, and the times and headers of its requests."""
    received: list[tuple[float, dict[str, str]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            received.append((time.monotonic(), dict(self.headers)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook", received
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def wait_until(condition: Any, within_s: float = 60.0) -> float:
    """Wait until a condition is true; return the seconds that took."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < within_s
        time.sleep(0.02)
    return time.monotonic() - start


def test_cancelling_a_long_job_frees_its_rows(http: httpx.Client, hour_of_speech: bytes) -> None:
    whisper = serve.get_deployment_handle("Whisper", "whisper")
    with run_receiver() as (url, received):
        form = {"webhook": f'{{"url": "{url}"}}'}
        job = http.post("/v1/jobs", files={"file": hour_of_speech}, data=form).json()
        windows_before = whisper.stats.remote().result().windows
        wait_until(lambda: whisper.stats.remote().result().windows > windows_before + 20)
        assert whisper.stats.remote().result().decoding > 0
        start = time.monotonic()
        answer = http.delete(f"/v1/jobs/{job['id']}").json()
        wait_until(lambda: (stats := whisper.stats.remote().result()).decoding == stats.waiting == 0)
        assert time.monotonic() - start < CANCEL_S
        assert answer["status"] == "cancelled"
        wait_until(lambda: received)
        assert received[0][0] - start < 2 * CANCEL_S
    steps = whisper.stats.remote().result().steps
    time.sleep(1)
    assert whisper.stats.remote().result().steps == steps


def test_jobs_survive_a_new_deployment(http: httpx.Client, running: Running) -> None:
    from deployments.launcher import deploy, wait_until_running

    file = {"file": (DATA / "de.opus").read_bytes()}
    jobs = [http.post("/v1/jobs", files=file).json() for _ in range(12)]
    serve.shutdown()
    deploy(running.config)
    assert wait_until_running(running.config)
    for job in jobs:
        wait_until(lambda: http.get(f"/v1/jobs/{job['id']}").json()["status"] == "succeeded")  # noqa: B023
        assert http.get(job["transcript_url"]).json()["text"] == "zwei sieben eins acht zwei acht"


OTHER_DRIVER = """
import asyncio, sys
import ray
from deployments.job_client import NAMESPACE, job_client
from serve_app.schemas.request import JobRequest, UrlSource

ray.init(sys.argv[1], namespace=NAMESPACE, log_to_driver=False)

async def main():
    jobs = job_client("whisper")
    job = await jobs.submit(JobRequest(source=UrlSource(url="http://127.0.0.1:9/none.mp3")), "from-elsewhere", owner="")
    print(job.id, len((await jobs.list(None, 5, None, owner="")).data))

asyncio.run(main())
"""


def test_jobs_from_another_driver(http: httpx.Client) -> None:
    address = ray.get_runtime_context().gcs_address
    printed = subprocess.run(
        [sys.executable, "-c", OTHER_DRIVER, address], check=True, capture_output=True, text=True, timeout=120
    ).stdout.split()
    assert printed[0] == "from-elsewhere"
    assert 1 <= int(printed[1]) <= 5
    wait_until(lambda: http.get("/v1/jobs/from-elsewhere").json()["status"] == "failed")
    assert http.get("/v1/jobs/from-elsewhere").json()["error"]["param"] == "url"
