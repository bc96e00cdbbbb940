"""One Ray cluster for the whole test session, with the service on it as `configs/local.yaml` says, of whisper-nano,
and who speaks.
"""

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Running:
    """A running service: where it listens, where it writes, and what it was deployed from."""

    url: str
    data_dir: Path
    config: Any


@pytest.fixture(scope="session")
def running() -> Iterator[Running]:
    # Short, because the sockets of Ray under it may have 107 characters in all.
    folder = Path(tempfile.mkdtemp(prefix="stt-", dir="/tmp"))
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    import ray
    from ray import serve

    from deployments.config import load
    from deployments.launcher import deploy, wait_until_running

    ray.init(
        address="local",
        namespace="serve",
        num_cpus=4,
        object_store_memory=300 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        _temp_dir=str(folder / "ray"),
        _node_ip_address="127.0.0.1",
    )
    try:
        config = load(ROOT / "configs/local.yaml")
        config.http_options.port = free_port()
        config.applications[0].args["model"] = "whisper-nano"  # nothing is fetched
        config.applications[0].args["data_dir"] = str(folder / "data")
        config.applications[0].args["diarization"] = {"pipeline": "diarization-nano", "threads": 1}
        deploy(config)
        assert wait_until_running(config)
        yield Running(f"http://127.0.0.1:{config.http_options.port}", folder / "data", config)
        serve.shutdown()
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def http(running: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running.url, timeout=120) as client:
        yield client


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
