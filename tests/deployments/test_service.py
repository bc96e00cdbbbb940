"""The deployed service on a Ray cluster: requests over HTTP, killed processes and new settings."""

import io
import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from pydub import AudioSegment
from ray import serve

from serve_app.audio import SAMPLE_RATE
from serve_app.audio.decode import AudioDecoder
from serve_app.errors import AudioError
from serve_app.schemas.request import TranscriptionOptions
from serve_app.settings import LimitSettings
from tests.cluster import Running

DATA = Path(__file__).parent.parent / "data"
TEXTS = {
    "en.mp3": "three one four one five nine",
    "de.opus": "zwei sieben eins acht zwei acht",
    "fr.flac": "un quatre un quatre deux un",
    "es.wav": "uno siete tres dos cero cinco",
}


def transcribe(http: httpx.Client, name: str, **fields: str) -> Any:
    files = {"file": (name, (DATA / name).read_bytes())}
    answer = http.post("/v1/audio/transcriptions", files=files, data={"model": "whisper-1"} | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def minutes_of_speech(count: float) -> bytes:
    pcm = np.concatenate(list(AudioDecoder(DATA / "es.wav", LimitSettings())))
    sound = AudioSegment(pcm.tobytes(), sample_width=2, frame_rate=SAMPLE_RATE, channels=1)
    long = io.BytesIO()
    (sound * round(count * 60 * SAMPLE_RATE / len(pcm))).export(long, format="wav")
    return long.getvalue()


def stream_events(http: httpx.Client, sound: bytes) -> Iterator[dict[str, Any]]:
    """Yield the events of a streamed transcription."""
    data = {"model": "whisper-1", "stream": "true"}
    with http.stream("POST", "/v1/audio/transcriptions", files={"file": sound}, data=data) as answer:
        assert answer.status_code == 200
        assert answer.headers["x-request-id"]
        for line in answer.iter_lines():
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))


def wait_for_job(http: httpx.Client, job_id: str, within_s: float = 60) -> Any:
    deadline = time.monotonic() + within_s
    while (job := http.get(f"/v1/jobs/{job_id}").json())["status"] in ("queued", "running"):
        assert time.monotonic() < deadline, job
        time.sleep(0.05)
    return job


def processes(title: str) -> Iterator[int]:
    """Yield the ids of this cluster's processes whose command line contains `title`; Ray puts actor names there."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if title in " ".join(process.cmdline()):
                yield process.pid


def kill(title: str) -> int:
    """Kill the process with this title; return its id."""
    (pid,) = processes(title)
    os.kill(pid, signal.SIGKILL)
    return pid


def windows_done() -> int:
    done: int = serve.get_deployment_handle("Whisper", "whisper").stats.remote().result().windows
    return done


def assert_cancelled(limit: int) -> None:
    """Wait until the Whisper replica is idle; fail if it transcribes `limit` windows before."""
    whisper = serve.get_deployment_handle("Whisper", "whisper")
    idle_since = time.monotonic()
    while time.monotonic() < idle_since + 1:
        stats = whisper.stats.remote().result()
        assert stats.windows < limit
        if stats.waiting or stats.decoding:
            idle_since = time.monotonic()
        time.sleep(0.05)


def test_transcription(http: httpx.Client, running: Running) -> None:
    assert transcribe(http, "en.mp3")["text"] == TEXTS["en.mp3"]
    job = http.get("/v1/jobs", params={"limit": 1}).json()["data"][0]
    assert (job["mode"], job["status"]) == ("sync", "succeeded")
    assert not list((running.data_dir / "blobs").iterdir())
    assert not list((running.data_dir / "tmp").iterdir())


def test_upload(http: httpx.Client) -> None:
    upload = http.post("/v1/uploads").json()
    assert httpx.put(upload["url"], content=(DATA / "fr.flac").read_bytes()).status_code == 200
    job = wait_for_job(http, http.post("/v1/jobs", json={"upload_id": upload["id"]}).json()["id"])
    assert http.get(job["transcript_url"], params={"format": "text"}).text.strip() == TEXTS["fr.flac"]


def test_health(http: httpx.Client) -> None:
    for path in ("/health", "/healthz", "/readyz"):
        answer = http.get(path, headers={"x-request-id": "abc"})
        assert (answer.status_code, answer.json(), answer.headers["x-request-id"]) == (200, {"status": "ok"}, "abc")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/models", 200),
        ("GET", "/v1/models/none", 404),
        ("GET", "/v1/nowhere", 404),
        ("POST", "/v1/audio/translations", 400),
        ("PUT", "/v1/models", 405),
    ],
)
def test_request_ids(http: httpx.Client, method: str, path: str, status: int) -> None:
    answer = http.request(method, path)
    assert answer.status_code == status
    assert len(answer.headers.get_list("x-request-id")) == 1


def test_errors_across_processes(http: httpx.Client) -> None:
    answer = http.post("/v1/audio/transcriptions", files={"file": b"no sound"}, data={"model": "whisper-1"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "not_audio")


def test_concurrent_requests_share_batches(http: httpx.Client) -> None:
    whisper = serve.get_deployment_handle("Whisper", "whisper")
    before = whisper.stats.remote().result()
    names = list(TEXTS) * 8
    with ThreadPoolExecutor(len(names)) as pool:
        texts = list(pool.map(lambda name: transcribe(http, name)["text"], names))
    assert texts == [TEXTS[name] for name in names]
    after = whisper.stats.remote().result()
    mean_batch = (after.rows - before.rows) / (after.steps - before.steps)
    print(f"mean rows a step of {len(names)} concurrent windows: {mean_batch:.1f}")
    assert mean_batch > 4


def test_killed_whisper_replica(http: httpx.Client) -> None:
    whisper = serve.get_deployment_handle("Whisper", "whisper")
    done = whisper.stats.remote().result().windows
    with ThreadPoolExecutor(8) as pool:
        requests = [pool.submit(transcribe, http, name) for name in list(TEXTS) * 2]
        while whisper.stats.remote().result().windows == done:
            time.sleep(0.01)
        killed = kill("ray::ServeReplica:whisper:Whisper")
        assert [request.result()["text"] for request in requests] == [*TEXTS.values()] * 2
    assert killed not in processes("ray::ServeReplica:whisper:Whisper")


def test_killed_transcriber(http: httpx.Client) -> None:
    with ThreadPoolExecutor(8) as pool:
        requests = [pool.submit(transcribe, http, name) for name in list(TEXTS) * 2]
        time.sleep(0.1)
        kill("ray::ServeReplica:whisper:Transcriber")
        assert [request.result()["text"] for request in requests] == [*TEXTS.values()] * 2


def test_killed_job_manager(http: httpx.Client) -> None:
    job = http.post("/v1/jobs", files={"file": (DATA / "de.opus").read_bytes()}).json()
    kill("ray::JobManagerActor")
    assert wait_for_job(http, job["id"])["status"] == "succeeded"
    assert http.get(job["transcript_url"]).json()["text"] == TEXTS["de.opus"]


def test_cancel_a_task(http: httpx.Client) -> None:
    long, done = (DATA / "en.mp3").read_bytes() * 500, windows_done()
    job = http.post("/v1/jobs", files={"file": long}).json()
    assert job["id"] in http.get("/tasks").json()["tasks"]
    assert http.get(f"/status/{job['id']}").json() == {"status": "processing"}
    assert http.delete(f"/cancel/{job['id']}").json() == {"status": "cancelled"}
    assert job["id"] not in http.get("/tasks").json()["tasks"]
    assert_cancelled(done + 100)
    refused = http.post("/", json={"url": "http://127.0.0.1:9/a.mp3", "managed_task_id": job["id"]})
    assert (refused.status_code, refused.json()["detail"].split(":")[0]) == (422, "managed_task_id")


def test_headers_pass_the_proxy(http: httpx.Client) -> None:
    body = {"url": "http://127.0.0.1:9/a.mp3"}
    forgotten = http.post("/x/generate", json=body, headers={"Prefer": "respond-async-proxy"})
    assert (forgotten.status_code, forgotten.content) == (202, b"")
    own = {"X-Inference-Id": "call-17"}
    late = http.post("/x/generate", json=body, headers=own | {"Prefer": "respond-async, wait=60"})
    assert late.status_code == 400, late.text
    assert http.get("/status/x", headers=own).json() == {"Id": "call-17", "Error": late.json()["detail"], "Status": 3}
    assert http.get("/result/x", headers=own).json() == late.json()


def test_disconnect_cancels_the_job(http: httpx.Client) -> None:
    with pytest.raises(httpx.ReadTimeout):
        http.post(
            "/v1/audio/transcriptions",
            files={"file": minutes_of_speech(10)},
            data={"model": "whisper-1"},
            timeout=httpx.Timeout(60, read=0.5),
        )
    job = http.get("/v1/jobs", params={"limit": 1}).json()["data"][0]
    assert wait_for_job(http, job["id"])["status"] == "cancelled"
    assert transcribe(http, "en.mp3")["text"] == TEXTS["en.mp3"]


def test_deltas_are_streamed_during_transcription(http: httpx.Client) -> None:
    start = time.monotonic()
    events = [(time.monotonic() - start, event) for event in stream_events(http, minutes_of_speech(5))]
    (first, _), (last, done) = events[0], events[-1]
    print(f"5 minutes: the first delta after {first:.2f} s, the last word after {last:.2f} s")
    assert first < last / 2
    assert [event["type"] for _, event in events] == [
        *["transcript.text.delta"] * (len(events) - 1),
        "transcript.text.done",
    ]
    assert "".join(event["delta"] for _, event in events[:-1]) == done["text"]
    assert len(events) > 20


def test_killed_transcriber_during_a_stream(http: httpx.Client) -> None:
    sound = minutes_of_speech(10)
    whole = http.post("/v1/audio/transcriptions", files={"file": sound}, data={"model": "whisper-1"}).json()["text"]
    text, killed = "", False
    for event in stream_events(http, sound):
        if event["type"] == "transcript.text.done":
            assert text == event["text"] == whole
            break
        text += event["delta"]
        if not killed and len(text) > 100:
            kill("ray::ServeReplica:whisper:Transcriber")
            killed = True
    assert killed
    assert http.get("/v1/jobs", params={"limit": 1}).json()["data"][0]["status"] == "succeeded"


def test_closed_stream_cancels_the_job(http: httpx.Client) -> None:
    stream, done = stream_events(http, minutes_of_speech(10)), windows_done()
    assert next(stream)["type"] == "transcript.text.delta"
    stream.close()
    job = http.get("/v1/jobs", params={"limit": 1}).json()["data"][0]
    assert wait_for_job(http, job["id"])["status"] == "cancelled"
    assert_cancelled(done + 50)


def test_audio_of_python_callers(running: Running) -> None:
    transcriber = serve.get_deployment_handle("Transcriber", "whisper")
    pcm = np.concatenate(list(AudioDecoder(DATA / "es.wav", LimitSettings())))
    segment = AudioSegment(pcm.tobytes(), sample_width=2, frame_rate=SAMPLE_RATE, channels=1)
    forced = TranscriptionOptions(language="es")
    assert transcriber.transcribe_audio.remote(segment, forced).result().text == TEXTS["es.wav"]
    assert transcriber.transcribe_audio.remote((DATA / "fr.flac").read_bytes()).result().text == TEXTS["fr.flac"]
    with pytest.raises(AudioError, match="no connection"):
        transcriber.transcribe_audio.remote("http://127.0.0.1:9/a.mp3").result()


def test_user_config_is_updated_without_a_restart(running: Running) -> None:
    from deployments.launcher import deploy, wait_until_running

    replicas = set(processes("ray::ServeReplica:whisper:Whisper"))
    (whisper,) = [d for d in running.config.applications[0].deployments if d.name == "Whisper"]
    handle = serve.get_deployment_handle("Whisper", "whisper")
    before = handle.batching.remote().result().max_batch_size
    for size in (2, before):
        whisper.user_config = {"max_batch_size": size}
        deploy(running.config)
        assert wait_until_running(running.config)
        deadline = time.monotonic() + 30
        while handle.batching.remote().result().max_batch_size != size:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert set(processes("ray::ServeReplica:whisper:Whisper")) == replicas, "the replica was restarted"


def test_new_settings_restart_the_job_manager(http: httpx.Client, running: Running) -> None:
    from deployments.launcher import deploy, wait_until_running

    job = http.post("/v1/jobs", files={"file": (DATA / "es.wav").read_bytes()}).json()
    wait_for_job(http, job["id"])
    (before,) = processes("ray::JobManagerActor")
    running.config.applications[0].args["model_aliases"] = ["whisper-1", "nano"]
    deploy(running.config)
    deadline = time.monotonic() + 200  # a process that takes over imports everything, on a busy machine
    while set(processes("ray::JobManagerActor")) in ({before}, set()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert wait_until_running(running.config)
    assert http.get("/v1/models/nano").status_code == 200
    assert http.get(job["transcript_url"]).json()["text"] == TEXTS["es.wav"]
    (after,) = processes("ray::JobManagerActor")
    assert after != before
    assert transcribe(http, "en.mp3", model="nano")["text"] == TEXTS["en.mp3"]
