"""The config files are what they claim to be."""

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
def test_the_config_files_are_valid_strictly(name: str) -> None:
    load(ROOT / name)


def test_what_the_production_config_leaves_out_would_be_valid() -> None:
    text = (ROOT / "serve_config.yaml").read_text()
    bare = re.sub(r"^( +)# (diarization: \{|- name: |  )", r"\1\2", text, flags=re.MULTILINE)
    (application,) = parse(yaml.safe_load(bare)).applications
    assert application.deployments[-1].name == "Diarizer"
    assert application.args["diarization"]["pipeline"]
    assert text in textwrap.dedent(rayservice()["spec"]["serveConfigV2"]) + "\n", "comments too"


def test_the_local_service_is_private_and_production_is_guarded() -> None:
    local, production = load(ROOT / "configs/local.yaml"), load(ROOT / "serve_config.yaml")
    assert local.http_options.host == "127.0.0.1"
    assert local.applications[0].args["network"] == {"allow_private_addresses": True}
    assert "network" not in production.applications[0].args


def test_only_the_local_service_makes_do_with_digits() -> None:
    local, *others = (
        load(ROOT / name) for name in ("configs/local.yaml", "serve_config.yaml", "configs/two-models.yaml")
    )
    assert local.applications[0].args["model_fallback"] == "whisper-nano"
    assert not any("model_fallback" in config.applications[0].args for config in others)


def test_kubernetes_runs_the_same_application() -> None:
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
def test_an_unknown_key_is_refused_by_name(path: tuple[str | int, ...], key: str, tmp_path: Path) -> None:
    raw = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    place = raw
    for step in path:
        place = place[step]
    place[key] = 1
    file = tmp_path / "c.yaml"
    file.write_text(json.dumps(raw))
    with pytest.raises(ConfigError, match=key):
        load(file)


def two_models() -> Any:
    return yaml.safe_load((ROOT / "configs/two-models.yaml").read_text())


def test_each_of_two_models_has_its_own_deployment() -> None:
    (application,) = two_models()["applications"]
    named = {deployment["name"]: deployment for deployment in application["deployments"]}
    assert set(named) == set(deployment_names(AppSettings.model_validate(application["args"])))
    assert "num_gpus" in named["Whisper"]["ray_actor_options"]
    assert "num_gpus" not in named["Whisper-small"]["ray_actor_options"]


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
def test_a_deployment_that_is_not_there_or_wrong_is_refused_by_name(
    number: int, change: dict[str, Any], message: str
) -> None:
    raw = two_models()
    raw["applications"][0]["deployments"][number] |= change
    with pytest.raises(ValueError, match=message):
        parse(raw)


@pytest.mark.parametrize("text", ["", "[]", "a: [", "applications: 3"])
def test_what_is_no_config_at_all_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"c\.yaml"):
        load(tmp_path / "c.yaml")


@pytest.fixture(scope="module")
def schema() -> Any:
    if not CRD.exists():
        pytest.skip(f"the RayService CRD is not at {CRD}")
    (version,) = [v for v in yaml.safe_load(CRD.read_text())["spec"]["versions"] if v["name"] == "v1"]
    return _strict(version["schema"]["openAPIV3Schema"])


class TestAgainstTheCustomResourceDefinition:
    def test_the_manifest_is_valid_strictly(self, schema: Any) -> None:
        jsonschema.validate(rayservice(), schema)

    @pytest.mark.parametrize(
        "path", [("spec",), ("spec", "rayClusterConfig"), ("spec", "rayClusterConfig", "headGroupSpec")]
    )
    def test_an_unknown_field_would_be_seen(self, schema: Any, path: tuple[str, ...]) -> None:
        manifest = copy.deepcopy(rayservice())
        place = manifest
        for step in path:
            place = place[step]
        place["replicaz"] = 1
        with pytest.raises(jsonschema.ValidationError, match="replicaz"):
            jsonschema.validate(manifest, schema)


def _strict(schema: Any) -> Any:
    """Refuse unknown properties wherever the schema lists the known ones, as `kubectl --validate=strict` does."""
    if isinstance(schema, dict):
        closed = {key: _strict(value) for key, value in schema.items()}
        if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            closed.setdefault("additionalProperties", False)
        return closed
    return [_strict(item) for item in schema] if isinstance(schema, list) else schema
