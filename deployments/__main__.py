"""`python -m deployments`: the service on this machine, in the foreground."""

import argparse
import logging
import os
import secrets
import signal
import sys
import threading
import time
from pathlib import Path

import ray
from ray import serve
from ray.serve.schema import ApplicationStatus, ServeDeploySchema

from deployments.config import ConfigError, load

POLL_S = 0.5


def main() -> int:
    """Start Ray and Serve, deploy the config file, stay until stopped."""
    options = _parser().parse_args()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        config = load(options.config)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.port is not None:
        config.http_options.port = options.port
    if options.data_dir is not None:
        for application in config.applications:
            application.args["data_dir"] = str(options.data_dir.absolute())

    print("Starting Ray and Ray Serve …", flush=True)
    _start_ray(options.data_dir or Path("data"), config.http_options.host)
    try:
        _deploy(config)
        ready = _wait_until_running(config, stop)
        if ready:
            print(f"Ready: http://{config.http_options.host}:{config.http_options.port}/docs  (Ctrl-C stops)", flush=True)
            stop.wait()
        return 0 if ready or stop.is_set() else 1
    finally:
        print("Stopping …", flush=True)
        serve.shutdown()
        ray.shutdown()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m deployments",
        description="Run the speech-to-text service on this machine, in the foreground, until Ctrl-C.",
        epilog="Every setting of the config file's args can also come from the environment: "
        "STT_MODEL=openai/whisper-large-v3-turbo, STT_LIMITS__MAX_AUDIO_S=600, … "
        "(see serve_app/settings.py). On a cluster use `serve deploy serve_config.yaml` instead.",
    )
    parser.add_argument("--config", type=Path, default=Path("configs/local.yaml"), help="a Serve config file")
    parser.add_argument("--port", type=int, help="instead of the file's http_options.port")
    parser.add_argument("--data-dir", type=Path, help="instead of the file's data_dir")
    return parser


def _start_ray(data_dir: Path, host: str) -> None:
    """A Ray of our own on the loopback interface; only those who can read the data folder can join it."""
    data_dir.mkdir(parents=True, exist_ok=True)
    token = data_dir.absolute() / "ray-token"
    if not token.exists():
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
    os.environ |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    ray.init(
        address="local",
        namespace="serve",
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.WARNING,
        _node_ip_address="127.0.0.1",
    )


def _deploy(config: ServeDeploySchema) -> None:
    """What `serve run FILE` does with a config, on a Ray that is already there."""
    serve.start(proxy_location=config.proxy_location, http_options=config.http_options.model_dump())
    client = serve.context._get_global_client()
    client.deploy_apps(config)


def _wait_until_running(config: ServeDeploySchema, stop: threading.Event) -> bool:
    """Print each change of a deployment's state; true once every application runs."""
    names = {application.name for application in config.applications}
    shown: dict[str, str] = {}
    start = time.monotonic()
    while not stop.wait(POLL_S):
        applications = serve.status().applications
        for name, application in applications.items():
            states = {f"{name}/{key}": value for key, value in application.deployments.items()}
            for key, deployment in states.items():
                if shown.get(key) != deployment.status:
                    shown[key] = deployment.status
                    print(f"  {time.monotonic() - start:5.1f} s  {key}: {deployment.status.value.lower()}", flush=True)
            if application.status == ApplicationStatus.DEPLOY_FAILED:
                print(f"error: {name}: {application.message}", file=sys.stderr, flush=True)
                return False
        if names <= {n for n, a in applications.items() if a.status == ApplicationStatus.RUNNING}:
            return True
    return False


if __name__ == "__main__":
    sys.exit(main())
