"""Two models in one application: each job goes to its own deployment."""

import copy
import time
from collections.abc import Iterator

import httpx
import pytest
import ray
from ray import serve

from deployments.config import parse
from deployments.job_client import NAMESPACE
from deployments.launcher import deploy, wait_until_running
from serve_app.errors import NotFound, Unavailable
from serve_app.schemas.job import Job
from serve_app.schemas.request import JobRequest, TranscriptionOptions, UrlSource
from tests.cluster import Running
from tests.deployments.test_service import DATA, TEXTS, transcribe, wait_for_job
from tests.server import german

APP = "two"
DEPLOYMENTS = {"whisper-nano": "Whisper", "german/1": "Whisper-german-1"}


@pytest.fixture(scope="module")
def http(running: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Deploy a second application on the same cluster, and delete it at the end of this module."""
    second = {"id": "german/1", "aliases": ["de"], "checkpoint": str(german(tmp_path_factory.mktemp("german")))}
    data_dir = str(tmp_path_factory.mktemp("two"))
    idle = {"num_cpus": 0}
    second_application = {
        **{"name": APP, "route_prefix": f"/{APP}", "import_path": "deployments.app:build"},
        "args": {"model": "whisper-nano", "data_dir": data_dir, "models": [second], "whisper": {"threads": 1}},
        "deployments": [
            {"name": "Ingress", "ray_actor_options": idle},
            {"name": "Transcriber", "ray_actor_options": idle},
            {"name": "Whisper", "ray_actor_options": idle, "user_config": {"max_batch_size": 4}},
            {"name": "Whisper-german-1", "ray_actor_options": idle, "user_config": {"max_batch_size": 2}},
        ],
    }
    config = copy.deepcopy(running.config)
    config.applications += parse({"applications": [second_application]}).applications
    start = time.monotonic()
    try:
        deploy(config)
        assert wait_until_running(config)
        print(f"the second application is there after {time.monotonic() - start:.1f} s")
        with httpx.Client(base_url=f"{running.url}/{APP}", timeout=120) as client:
            yield client
    finally:
        deploy(running.config)
        ray.kill(ray.get_actor(f"job-manager:{APP}", namespace=NAMESPACE))
        while APP in serve.status().applications:
            time.sleep(0.1)


def count_windows() -> dict[str, int]:
    """Return the number of windows that each model's replica has transcribed."""
    handles = {model: serve.get_deployment_handle(name, APP) for model, name in DEPLOYMENTS.items()}
    return {model: handle.stats.remote().result().windows for model, handle in handles.items()}


class ModelUse:
    """Finds which models transcribed windows since the last call."""

    def __init__(self) -> None:
        self._counts = count_windows()

    def since_last_call(self) -> set[str]:
        before, self._counts = self._counts, count_windows()
        return {model for model, done in self._counts.items() if done > before[model]}


def test_jobs_run_on_the_deployment_of_their_model(http: httpx.Client) -> None:
    model_use = ModelUse()
    assert http.get("/readyz").status_code == 200
    assert [model["id"] for model in http.get("/v1/models").json()["data"]] == [
        *("whisper-nano", "whisper-1", "german/1", "de")
    ]
    for name, model in [("whisper-1", "whisper-nano"), ("de", "german/1"), ("german/1", "german/1")]:
        assert transcribe(http, "de.opus", model=name)["text"] == TEXTS["de.opus"]
        assert model_use.since_last_call() == {model}
        job = http.post("/v1/jobs", files={"file": (DATA / "de.opus").read_bytes()}, data={"model": name}).json()
        job = wait_for_job(http, job["id"])
        assert (job["status"], job["model"]) == ("succeeded", model)
        assert model_use.since_last_call() == {model}


def test_each_deployment_has_its_own_settings(http: httpx.Client) -> None:
    batching = [serve.get_deployment_handle(name, APP).batching.remote().result() for name in DEPLOYMENTS.values()]
    assert [one.max_batch_size for one in batching] == [4, 2]


def test_model_of_python_callers(http: httpx.Client) -> None:
    model_use = ModelUse()
    transcriber = serve.get_deployment_handle("Transcriber", APP)
    sound = (DATA / "de.opus").read_bytes()
    for name, model in [(None, "whisper-nano"), ("de", "german/1")]:
        text = transcriber.transcribe_audio.remote(sound, TranscriptionOptions(model=name)).result().text
        assert (text, model_use.since_last_call()) == (TEXTS["de.opus"], {model})
    with pytest.raises(NotFound, match="use one of whisper-nano, whisper-1, german/1, de"):
        transcriber.transcribe_audio.remote(sound, TranscriptionOptions(model="gpt-9")).result()


def test_unknown_model_is_retried(http: httpx.Client) -> None:
    transcriber = serve.get_deployment_handle("Transcriber", APP)
    request = JobRequest(source=UrlSource(url="http://127.0.0.1:9/a.mp3"), model="gone")
    job = Job.running("1", request)
    with pytest.raises(Unavailable, match="'gone' is not served"):
        list(transcriber.options(stream=True).transcribe.remote(job))
