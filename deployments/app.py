"""The application: `deployments.app:build` is the import path of every Serve config file."""

import re

from ray import serve

from deployments.diarizer import Diarizer
from deployments.ingress import Ingress
from deployments.transcriber import Transcriber
from deployments.whisper import Whisper
from serve_app.fronts.registry import FRONTS, select_fronts
from serve_app.models.resolve import resolve_models
from serve_app.settings import AppSettings, ServedModel

# No `from __future__ import annotations` here: Serve reads the annotation of `build` at run time
# and would pass a raw dict.


def build(args: AppSettings) -> serve.Application:
    """Return the application: Ingress → Transcriber → a Whisper for each model, and the Diarizer if it is on.

    Models are fetched here, so that all processes serve the same ones. Raises ValueError for an unknown front.
    """
    select_fronts(FRONTS, args.fronts)
    args = resolve_models(args)
    whispers = {
        model.id: serve.deployment(Whisper, name=name).bind(model, args.whisper, args.models_dir, args.logs)
        for name, model in whisper_deployments(args).items()
    }
    diarizer = serve.deployment(Diarizer).bind(args) if args.diarization.pipeline else None
    transcriber = serve.deployment(Transcriber).bind(args, whispers, diarizer)
    return serve.deployment(serve.ingress()(Ingress)).bind(args, transcriber)


def whisper_deployments(settings: AppSettings) -> dict[str, ServedModel]:
    """Return the models by the names of their deployments: `Whisper` for the default, `Whisper-ID` for the others.

    Characters of an id other than letters, digits, `.` and `_` become one `-`: `Whisper-openai-whisper-tiny`.
    Raises ValueError for two models whose deployments would have the same name.
    """
    default, *others = settings.served_models
    models = {"Whisper": default}
    for model in others:
        name = f"Whisper-{re.sub(r'[^A-Za-z0-9._]+', '-', model.id).strip('-')}"
        if name in models:
            raise ValueError(
                f"models: {model.id!r} and {models[name].id!r} would share the deployment {name}: change one of the ids"
            )
        models[name] = model
    return models


def deployment_names(settings: AppSettings) -> tuple[str, ...]:
    """Return the names of all deployments, for a config file's `deployments`."""
    diarizer = ("Diarizer",) if settings.diarization.pipeline else ()
    return ("Ingress", "Transcriber", *whisper_deployments(settings), *diarizer)
