"""A Serve config on a Ray of our own, on this machine."""

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
    """Serve gave up on an application; the message is Serve's."""


def check_port(host: str, port: int) -> None:
    """Raise OSError when something listens there: Serve would share the port with it and call itself ready."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))


def start_ray(data_dir: Path) -> None:
    """A Ray on the loopback interface; only who can read the data folder can join it."""
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
    config: ServeDeploySchema, stop: threading.Event | None = None, tell: Callable[[str], None] = lambda line: None
) -> bool:
    """Wait for every application to run; False when `stop` was set before. `tell` hears of each change.

    Raises DeployFailed.
    """
    stop = stop or threading.Event()
    names = {application.name for application in config.applications}
    shown: dict[str, str] = {}
    start = time.monotonic()
    while not stop.wait(POLL_S):
        applications = serve.status().applications
        for name, application in applications.items():
            for deployment, status in application.deployments.items():
                if shown.get(f"{name}/{deployment}") != status.status:
                    shown[f"{name}/{deployment}"] = status.status
                    tell(f"{time.monotonic() - start:6.1f} s  {deployment}: {status.status.value.lower()}")
            if application.status == ApplicationStatus.DEPLOY_FAILED:
                details = [f"{d}: {s.message}" for d, s in application.deployments.items() if s.message]
                raise DeployFailed("\n  ".join([f"{name}: {application.message}", *details]))
        if names <= {name for name, app in applications.items() if app.status == ApplicationStatus.RUNNING}:
            return True
    return False
