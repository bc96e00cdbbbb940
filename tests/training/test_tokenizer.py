"""The recipe builds exactly the shipped processor."""

import json
from pathlib import Path

import pytest

from serve_app.models import model_source
from training.whisper_nano.tokenizer import build_config, build_generation_config, build_processor

SHIPPED = Path(model_source("whisper-nano"))
LOADER_KEYS = {"is_local", "local_files_only", "architectures", "dtype", "transformers_version"}
"""Keys that transformers adds when it loads or saves a whole model."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    processor = build_processor()
    processor.save_pretrained(folder)
    build_config(processor.tokenizer).save_pretrained(folder)
    build_generation_config(processor.tokenizer).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "name",
    ["tokenizer.json", "tokenizer_config.json", "processor_config.json", "config.json", "generation_config.json"],
)
def test_built_processor_equals_the_shipped_one(built: Path, name: str) -> None:
    ours, theirs = (json.loads((folder / name).read_text()) for folder in (built, SHIPPED))
    for key in LOADER_KEYS:
        ours.pop(key, None)
        theirs.pop(key, None)
    assert ours == theirs
