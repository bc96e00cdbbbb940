"""Deploy a Serve config on a Ray cluster of its own, on this machine."""

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import ray
from ray import serve
from ray.serve.schema import ApplicationStatus, ServeDeploySchema

from deployments import proxy_errors

POLL_S = 0.5


class DeployFailed(RuntimeError):
    """An application could not be deployed; the message is Serve's."""


def check_port(host: str, port: int) -> None:
    """Raise OSError if the port is in use: Serve would share it with the other program, and report that it is ready."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))


def start_ray(data_dir: Path) -> None:
    """Start a Ray cluster on the loopback interface, which only processes that can read the data folder can join."""
    data_dir.mkdir(parents=True, exist_ok=True)
    token = data_dir.absolute() / "ray-token"
    if not token.exists():
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
    # Ray asks for a token by default; without a path it would keep it in the home folder.
    os.environ |= {"RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0", **proxy_errors.ENVIRONMENT}
    ray.init(
        address="local",
        namespace="serve",
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _node_ip_address="127.0.0.1",
    )


def deploy(config: ServeDeploySchema) -> None:
    """Deploy a config as `serve run FILE` does, on a Ray that is already running."""
    serve.start(proxy_location=config.proxy_location, http_options=config.http_options.model_dump())
    # Serve has no public call that takes a config file's content without its dashboard.
    serve.context._get_global_client().deploy_apps(config)


def wait_until_running(
    config: ServeDeploySchema, stop: threading.Event | None = None, report: Callable[[str], None] = lambda line: None
) -> bool:
    """Wait until every application runs; return false if `stop` was set before. `report` gets a line for each change.

    Raises DeployFailed.
    """
    stop = stop or threading.Event()
    names = {application.name for application in config.applications}
    last_status: dict[str, str] = {}
    start = time.monotonic()
    while not stop.wait(POLL_S):
        applications = serve.status().applications
        for name, application in applications.items():
            for deployment, status in application.deployments.items():
                if last_status.get(f"{name}/{deployment}") != status.status:
                    last_status[f"{name}/{deployment}"] = status.status
                    report(f"{time.monotonic() - start:6.1f} s  {deployment}: {status.status.value.lower()}")
            if application.status == ApplicationStatus.DEPLOY_FAILED:
                details = [f"{d}: {s.message}" for d, s in application.deployments.items() if s.message]
                raise DeployFailed("\n  ".join([f"{name}: {application.message}", *details]))
        if names <= {name for name, app in applications.items() if app.status == ApplicationStatus.RUNNING}:
            return True
    return False
