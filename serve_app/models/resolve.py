"""Resolution of checkpoint names to folders. Downloaded and converted checkpoints are cached.

A folder in the cache is always complete: it is written under a temporary name and then renamed.
"""

import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from serve_app.models import EMBEDDED_WARNINGS, model_source
from serve_app.models.catalogue import CATALOGUE, EMBEDDING, PIPELINES, SEGMENTATION
from serve_app.models.ctranslate2 import convert, is_ctranslate2
from serve_app.models.download_progress import Report
from serve_app.models.fetch import CHECKPOINT_FILES, ModelUnavailable, fetch_model, fetch_pipeline
from serve_app.settings import AppSettings
from serve_app.whisper.model.tokens import CheckpointError

logger = logging.getLogger(__name__)


def resolve_checkpoint(name: str, models_dir: Path, report: Report = logger.info) -> str:
    """Return the folder of a checkpoint, or its hub id.

    Models of the catalogue are downloaded to `models_dir`, and folders in CTranslate2's format converted there, unless
    that was done before. `report` receives progress lines. Raises ModelUnavailable, and CheckpointError for invalid
    files.
    """
    if name in CATALOGUE:
        model, folder = CATALOGUE[name], models_dir / name
        make_folder(folder, lambda made: fetch_model(model, made, report))
        _check_files(name, folder, CHECKPOINT_FILES)
        return str(folder)
    source = Path(name)
    if is_ctranslate2(source):
        folder = models_dir / f"{source.resolve().name}-{_version(source)}"

        def make(made: Path) -> None:
            report(f"{name}: converting from CTranslate2's format")
            convert(source, made)

        return str(make_folder(folder, make))
    return model_source(name)


def resolve_pipeline(name: str, models_dir: Path, report: Report = logger.info) -> str:
    """Return the folder of a diarization pipeline, or its hub id.

    Pipelines of the catalogue are downloaded to `models_dir`, unless that was done before. Raises ModelUnavailable and
    CheckpointError.
    """
    if name not in PIPELINES:
        return model_source(name)
    pipeline, folder = PIPELINES[name], models_dir / name
    make_folder(folder, lambda made: fetch_pipeline(pipeline, made, report))
    _check_files(name, folder, (SEGMENTATION, EMBEDDING))
    return str(folder)


def _check_files(name: str, folder: Path, files: tuple[str, ...]) -> None:
    """Raise CheckpointError if a folder of the cache lacks files."""
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder} lacks {', '.join(missing)}: add the files, or delete the folder to download {name} again"
        )


def resolve_models(settings: AppSettings, report: Report = logger.warning) -> AppSettings:
    """Resolve all checkpoints that are served, and the diarization pipeline; return the settings.

    If the default model can't be downloaded, `model_fallback` replaces it, with a prominent warning. Raises what
    `resolve_checkpoint` raises.
    """
    if settings.diarization.pipeline is not None:
        resolve_pipeline(settings.diarization.pipeline, settings.models_dir, report)
    default, *others = settings.served_models
    for model in others:
        resolve_checkpoint(model.checkpoint, settings.models_dir, report)
    try:
        resolve_checkpoint(default.checkpoint, settings.models_dir, report)
    except ModelUnavailable:
        fallback = settings.model_fallback
        if fallback is None or fallback == settings.model:
            raise
        lines = (
            f"WARNING: {settings.model} can't be downloaded, for the reasons above.",
            f"WARNING: {fallback} runs INSTEAD OF {settings.model}.",
            f"WARNING: {EMBEDDED_WARNINGS.get(fallback, 'It may lack languages or accuracy of the other model.')}",
            "WARNING: docs/models.md explains how to install a model without network access.",
        )
        rule = "*" * 100
        for line in (rule, *lines, rule):
            report(line)
        return settings.model_copy(update={"model": fallback})
    return settings


def make_folder(folder: Path, make: Callable[[Path], None]) -> Path:
    """Return `folder`; unless it exists, `make` fills a temporary folder, which is renamed when complete.

    Of several processes only one does this. Partial folders of killed processes are deleted.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{folder.name}.lock"):
        if folder.is_dir():
            return folder
        for left in folder.parent.glob(f".{folder.name}.*.partial"):
            shutil.rmtree(left, ignore_errors=True)
        made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
        try:
            make(made)
            for path in made.iterdir():
                path.chmod(0o644)  # the service may run as another user than the download
                _flush(path)
            made.chmod(0o755)
            made.rename(folder)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
    return folder


def _flush(path: Path) -> None:
    """Flush a file to disk before its name marks it as complete."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _version(source: Path) -> str:
    """Return a hash that changes with the path and the files of a CTranslate2 folder."""
    names = ("model.bin", "config.json", "tokenizer.json")
    states = ((path.stat().st_size, path.stat().st_mtime_ns) for name in names if (path := source / name).is_file())
    return hashlib.sha256(repr((str(source.resolve()), *states)).encode()).hexdigest()[:12]
