"""Serve config files, read strictly: Serve itself ignores unknown keys at every level."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import (
    DeploymentSchema,
    HTTPOptionsSchema,
    RayActorOptionsSchema,
    ServeApplicationSchema,
    ServeDeploySchema,
)

from deployments.app import deployment_names, whisper_deployments
from serve_app.settings import AppSettings
from serve_app.whisper.engine.scheduler import Batching


class ConfigError(ValueError):
    """A config file that is not what it should be, with the place named."""


def load(path: Path) -> ServeDeploySchema:
    """The Serve config in the file at `path`. Raises ConfigError."""
    try:
        return parse(yaml.safe_load(path.read_text()))
    except ValidationError as error:
        wrong = (f"{'.'.join(map(str, one['loc'])) or error.title}: {one['msg']}" for one in error.errors())
        raise ConfigError(f"{path}: {'; '.join(wrong)}") from None
    except (OSError, yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from None


def parse(raw: Any) -> ServeDeploySchema:
    """`raw` as a Serve config, with our arguments and live settings checked too. Raises ValueError."""
    config = ServeDeploySchema.model_validate(raw)
    _reject_unknown_keys(raw, ServeDeploySchema, "the file")
    _reject_unknown_keys(raw.get("http_options"), HTTPOptionsSchema, "http_options")
    for application in raw["applications"]:
        _reject_unknown_keys(application, ServeApplicationSchema, f"application {application.get('name', '')}")
        settings = AppSettings.model_validate(application.get("args", {}))
        names = deployment_names(settings)
        for deployment in application.get("deployments", []):
            place = f"deployment {deployment['name']}"
            if deployment["name"] not in names:
                raise ValueError(f"{place}: there is none of that name; there are {', '.join(names)}")
            _reject_unknown_keys(deployment, DeploymentSchema, place)
            _reject_unknown_keys(
                deployment.get("ray_actor_options"), RayActorOptionsSchema, f"{place}: ray_actor_options"
            )
            _reject_unknown_keys(
                deployment.get("autoscaling_config"), AutoscalingConfig, f"{place}: autoscaling_config"
            )
            if deployment["name"] in whisper_deployments(settings):
                Batching.model_validate(deployment.get("user_config", {}))
    return config


def _reject_unknown_keys(raw: dict[str, Any] | None, schema: type[BaseModel], place: str) -> None:
    unknown = set(raw or {}) - set(schema.model_fields)
    if unknown:
        raise ValueError(f"{place}: unknown key {', '.join(sorted(unknown))}; known: {', '.join(schema.model_fields)}")
