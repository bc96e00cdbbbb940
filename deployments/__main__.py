"""`python -m deployments`: run the service on this machine, in the foreground."""

import argparse
import contextlib
import io
import os
import signal
import sys
import threading
from pathlib import Path

import ray
from ray import serve
from ray.serve.schema import ServeDeploySchema

from deployments.config import ConfigError, load
from deployments.launcher import DeployFailed, check_port, deploy, start_ray, wait_until_running
from serve_app.models import EMBEDDED_WARNINGS
from serve_app.models.fetch import ModelUnavailable
from serve_app.models.resolve import resolve_models
from serve_app.settings import AppSettings
from serve_app.whisper.model.tokens import CheckpointError


def main() -> int:
    """Start Ray and Serve, deploy the config file, and wait until stopped."""
    options = _parser().parse_args()
    try:
        config = load(options.config)
    except ConfigError as error:
        return _fail(error)
    http = config.http_options
    http.host = options.host or http.host
    http.port = options.port or http.port
    try:
        check_port(http.host, http.port)
    except OSError as error:
        return _fail(f"can't listen on {http.host}:{http.port}: {error}; choose another with --port (make: PORT=…)")
    # Through the environment, which wins over the file, and reaches every process of this Ray.
    data_dir = (options.data_dir or AppSettings.model_validate(config.applications[0].args).data_dir).absolute()
    os.environ["STT_DATA_DIR"] = str(data_dir)
    os.environ.setdefault("HF_HOME", str(data_dir / "huggingface"))

    try:
        warnings = _fetch_models(config)
    except (ModelUnavailable, CheckpointError) as error:
        return _fail(error)
    except KeyboardInterrupt:
        return _fail("stopped before the models were fetched")
    print("Starting Ray and Ray Serve …", flush=True)
    start_ray(data_dir)
    # After Ray, which would report a SIGTERM as a crash.
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        deploy(config)
        if wait_until_running(config, stop, _report):
            _report(f"Ready: http://{http.host}:{http.port}/docs (Ctrl-C stops)")
            for warning in warnings:
                _report(f"WARNING: {warning}")
            stop.wait()
    except DeployFailed as error:
        return _fail(error)
    finally:
        print("Stopping …", flush=True)
        # Ray reports on stdout that Serve's controller is gone, as an error, though it is meant to go.
        with contextlib.redirect_stdout(io.StringIO()):
            serve.shutdown()
            ray.shutdown()
    return 0


def _fetch_models(config: ServeDeploySchema) -> list[str]:
    """Fetch the models before anything runs, and write those that replace unavailable ones into the config.

    Returns the warnings of the models that will be served.
    """
    settings = [resolve_models(AppSettings.model_validate(app.args), _report) for app in config.applications]
    os.environ.pop("STT_MODEL", None)  # the config has the result
    for application, resolved in zip(config.applications, settings, strict=True):
        application.args["model"] = resolved.model
    return [EMBEDDED_WARNINGS[each.model] for each in settings if each.model in EMBEDDED_WARNINGS]


def _report(line: str) -> None:
    print(line, flush=True)


def _fail(error: Exception | str) -> int:
    print(f"error: {error}", file=sys.stderr, flush=True)
    return 1


def _port(text: str) -> int:
    if not (text.isdecimal() and 0 < int(text) < 2**16):
        raise argparse.ArgumentTypeError(f"{text!r}: 1 to 65535 is allowed")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m deployments",
        description="Run the speech-to-text service on this machine, in the foreground, until Ctrl-C.",
        epilog="Every setting of the config file's args can also come from the environment: "
        "STT_MODEL=openai/whisper-large-v3-turbo, STT_LIMITS__MAX_AUDIO_S=600, … "
        "(serve_app/settings.py lists them). On a cluster use `serve deploy serve_config.yaml` instead.",
    )
    parser.add_argument("--config", type=Path, default=Path("configs/local.yaml"), help="the Serve config file")
    parser.add_argument("--host", help="instead of the file's http_options.host")
    parser.add_argument("--port", type=_port, help="instead of the file's http_options.port")
    parser.add_argument(
        "--data-dir", type=Path, help="database, uploads, temporary files, models from a hub (default: the file's)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
