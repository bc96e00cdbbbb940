"""The application: `deployments.app:build` is the import path of every Serve config file."""

from ray import serve

from deployments.diarizer import Diarizer
from deployments.ingress import Ingress
from deployments.transcriber import Transcriber
from deployments.whisper import Whisper
from serve_app.settings import AppSettings

# No `from __future__ import annotations` here: Serve reads the annotation below at run time
# and would hand over a raw dict.


def build(args: AppSettings) -> serve.Application:
    """Ingress → Transcriber → Whisper, and the Diarizer if there is one, with the job manager beside them."""
    whisper = serve.deployment(Whisper).bind(args)
    diarizer = serve.deployment(Diarizer).bind(args) if args.diarization.pipeline else None
    transcriber = serve.deployment(Transcriber).bind(args, whisper, diarizer)
    return serve.deployment(serve.ingress()(Ingress)).bind(args, transcriber)
