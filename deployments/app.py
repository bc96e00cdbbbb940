"""The application: `deployments.app:build` is the import path of every Serve config file."""

from ray.serve import Application

from deployments.ingress import Ingress
from deployments.transcriber import Transcriber
from deployments.whisper import Whisper
from serve_app.settings import AppSettings

# No `from __future__ import annotations` here: Serve reads the annotation below at run time
# and would hand over a raw dict.


def build(args: AppSettings) -> Application:
    """Ingress → Transcriber → Whisper, with the job manager beside them."""
    return Ingress.bind(args, Transcriber.bind(args, Whisper.bind(args)))
