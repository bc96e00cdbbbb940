"""The config files are valid, and differ only where they should."""

import copy
import json
import re
import textwrap
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from deployments.app import deployment_names
from deployments.config import ConfigError, load, parse
from serve_app.settings import AppSettings

ROOT = Path(__file__).parent.parent.parent
CRD = ROOT.parent / "shared/data/ray.io_rayservices.crd.yaml"
MANIFEST = ROOT / "configs/kuberay/rayservice.yaml"


def rayservice() -> Any:
    (manifest,) = [d for d in yaml.safe_load_all(MANIFEST.read_text()) if d["kind"] == "RayService"]
    return manifest


@pytest.mark.parametrize("name", ["serve_config.yaml", "configs/local.yaml", "configs/two-models.yaml"])
def test_config_files_are_valid(name: str) -> None:
    load(ROOT / name)


def test_commented_settings_are_valid() -> None:
    text = (ROOT / "serve_config.yaml").read_text()
    uncommented = re.sub(r"^( +)# (diarization: \{|- name: |  )", r"\1\2", text, flags=re.MULTILINE)
    (application,) = parse(yaml.safe_load(uncommented)).applications
    assert application.deployments[-1].name == "Diarizer"
    assert application.args["diarization"]["pipeline"]
    assert text in textwrap.dedent(rayservice()["spec"]["serveConfigV2"]) + "\n", "the manifest has the comments too"


def test_private_addresses_are_allowed_locally_only() -> None:
    local, production = load(ROOT / "configs/local.yaml"), load(ROOT / "serve_config.yaml")
    assert local.http_options.host == "127.0.0.1"
    assert local.applications[0].args["network"] == {"allow_private_addresses": True}
    assert "network" not in production.applications[0].args


def test_only_the_local_config_has_a_fallback_model() -> None:
    local, *others = (
        load(ROOT / name) for name in ("configs/local.yaml", "serve_config.yaml", "configs/two-models.yaml")
    )
    assert local.applications[0].args["model_fallback"] == "whisper-nano"
    assert not any("model_fallback" in config.applications[0].args for config in others)


def test_kubernetes_manifest_has_the_production_config() -> None:
    served = yaml.safe_load(rayservice()["spec"]["serveConfigV2"])
    parse(served)
    assert served == yaml.safe_load((ROOT / "serve_config.yaml").read_text())


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ((), "aplications"),
        (("http_options",), "prot"),
        (("applications", 0), "arguments"),
        (("applications", 0, "args"), "modle"),
        (("applications", 0, "args", "limits"), "max_mb"),
        (("applications", 0, "deployments", 2), "max_ongoing"),
        (("applications", 0, "deployments", 2, "user_config"), "batch_size"),
        (("applications", 0, "deployments", 2, "autoscaling_config"), "max"),
        (("applications", 0, "deployments", 2, "ray_actor_options"), "gpus"),
    ],
)
def test_unknown_keys_are_named(path: tuple[str | int, ...], key: str, tmp_path: Path) -> None:
    raw = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    target = raw
    for step in path:
        target = target[step]
    target[key] = 1
    file = tmp_path / "c.yaml"
    file.write_text(json.dumps(raw))
    with pytest.raises(ConfigError, match=key):
        load(file)


def two_models() -> Any:
    return yaml.safe_load((ROOT / "configs/two-models.yaml").read_text())


def test_two_models_have_two_deployments() -> None:
    (application,) = two_models()["applications"]
    deployments = {deployment["name"]: deployment for deployment in application["deployments"]}
    assert set(deployments) == set(deployment_names(AppSettings.model_validate(application["args"])))
    assert "num_gpus" in deployments["Whisper"]["ray_actor_options"]
    assert "num_gpus" not in deployments["Whisper-small"]["ray_actor_options"]


@pytest.mark.parametrize(
    ("number", "change", "message"),
    [
        (
            3,
            {"name": "Whisper-large"},
            "deployment Whisper-large: .* there are Ingress, .*, Whisper-small",
        ),
        (2, {"name": "whisper"}, "deployment whisper: there is none"),
        (3, {"user_config": {"batch_size": 1}}, "batch_size"),
        (3, {"user_config": {"max_batch_size": 0}}, "max_batch_size"),
    ],
)
def test_invalid_deployments_are_named(number: int, change: dict[str, Any], message: str) -> None:
    raw = two_models()
    raw["applications"][0]["deployments"][number] |= change
    with pytest.raises(ValueError, match=message):
        parse(raw)


@pytest.mark.parametrize("text", ["", "[]", "a: [", "applications: 3"])
def test_invalid_files_are_rejected(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"c\.yaml"):
        load(tmp_path / "c.yaml")


@pytest.fixture(scope="module")
def schema() -> Any:
    if not CRD.exists():
        pytest.skip(f"the RayService CRD is not at {CRD}")
    (version,) = [v for v in yaml.safe_load(CRD.read_text())["spec"]["versions"] if v["name"] == "v1"]
    return with_closed_objects(version["schema"]["openAPIV3Schema"])


class TestCustomResourceDefinition:
    def test_manifest_is_valid(self, schema: Any) -> None:
        jsonschema.validate(rayservice(), schema)

    @pytest.mark.parametrize(
        "path", [("spec",), ("spec", "rayClusterConfig"), ("spec", "rayClusterConfig", "headGroupSpec")]
    )
    def test_unknown_fields_are_rejected(self, schema: Any, path: tuple[str, ...]) -> None:
        manifest = copy.deepcopy(rayservice())
        target = manifest
        for step in path:
            target = target[step]
        target["replicaz"] = 1
        with pytest.raises(jsonschema.ValidationError, match="replicaz"):
            jsonschema.validate(manifest, schema)


def with_closed_objects(schema: Any) -> Any:
    """Refuse unknown properties wherever the schema lists the known ones, as `kubectl --validate=strict` does."""
    if isinstance(schema, dict):
        strict = {key: with_closed_objects(value) for key, value in schema.items()}
        if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            strict.setdefault("additionalProperties", False)
        return strict
    return [with_closed_objects(item) for item in schema] if isinstance(schema, list) else schema
