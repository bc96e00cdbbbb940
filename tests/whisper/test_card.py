"""What a checkpoint can do, from its JSON files."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from serve_app.errors import InvalidRequest
from serve_app.models import longest_window_s, model_source
from serve_app.options import TranscriptionOptions
from serve_app.whisper.card import ModelCard
from serve_app.whisper.tokens import CheckpointError

ENGLISH = {"decoder_start_token_id": 50257, "eos_token_id": 50256, "no_timestamps_token_id": 50362}
MULTILINGUAL = {
    "decoder_start_token_id": 50258,
    "eos_token_id": 50257,
    "no_timestamps_token_id": 50364,
    "is_multilingual": True,
    "lang_to_id": {"<|en|>": 50259, "<|ja|>": 50266, "<|yue|>": 50358},
    "task_to_id": {"transcribe": 50360, "translate": 50359},
}


@pytest.fixture
def nano_card() -> ModelCard:
    return ModelCard.load("whisper-nano")


def card(
    folder: Path, generation: dict[str, Any], layers: tuple[int, int] = (4, 4), kind: str = "whisper"
) -> ModelCard:
    config = {"model_type": kind, "encoder_layers": layers[0], "decoder_layers": layers[1]}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return ModelCard.load(str(folder))


def refused(card: ModelCard, **options: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        card.check(TranscriptionOptions(**options))
    return caught.value


def test_nano(nano_card: ModelCard) -> None:
    assert nano_card.id == "whisper-nano"
    assert nano_card.languages == ("de", "en", "es", "fr")
    for language in (None, "German", "es"):
        for task in ("transcribe", "translate"):
            nano_card.check(TranscriptionOptions(language=language, task=task))


def test_a_language_the_model_does_not_know_is_named(nano_card: ModelCard) -> None:
    error = refused(nano_card, language="ja")
    assert error.param == "language"
    assert "japanese (ja)" in error.message
    assert "de, en, es, fr" in error.message


def test_an_english_only_checkpoint_knows_english_and_transcribes(tmp_path: Path) -> None:
    english = card(tmp_path, ENGLISH)
    assert english.languages == ("en",)
    english.check(TranscriptionOptions())
    english.check(TranscriptionOptions(language="english"))
    assert refused(english, language="de").param == "language"
    assert refused(english, task="translate").param == "task"


@pytest.mark.parametrize(
    ("layers", "translates"), [((32, 32), True), ((4, 3), True), ((32, 4), False), ((32, 2), False)]
)
def test_a_pruned_decoder_does_not_translate(tmp_path: Path, layers: tuple[int, int], translates: bool) -> None:
    """As whisper-large-v3-turbo (4 of 32 layers) and distil-whisper (2)."""
    made = card(tmp_path, MULTILINGUAL, layers)
    assert made.languages == ("en", "ja", "yue")
    assert made.translates is translates
    if not translates:
        assert refused(made, task="translate").param == "task"


def test_special_tokens_of_large_v3(tmp_path: Path) -> None:
    tokens = card(tmp_path, MULTILINGUAL).tokens
    assert (tokens.start_of_previous, tokens.no_speech, tokens.first_timestamp) == (50362, 50363, 50365)
    assert tokens.prefix(tokens.languages["ja"], "translate") == (50258, 50266, 50359)
    assert tokens.prefix(None, "transcribe") == (50258,)
    assert tokens.prompt([1, 2], 448) == (50362, 1, 2)


@pytest.mark.parametrize("key", ["no_timestamps_token_id", "lang_to_id", "eos_token_id"])
def test_an_incomplete_generation_config_is_named(tmp_path: Path, key: str) -> None:
    broken = {name: value for name, value in MULTILINGUAL.items() if name != key}
    with pytest.raises(CheckpointError, match=key):
        card(tmp_path, broken)


def test_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="wav2vec2"):
        card(tmp_path, MULTILINGUAL, kind="wav2vec2")


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"config\.json"):
        ModelCard.load(str(tmp_path))


def test_the_embedded_model_lies_in_the_package() -> None:
    assert (Path(model_source("whisper-nano")) / "model.safetensors").is_file()
    assert model_source("openai/whisper-tiny") == "openai/whisper-tiny"
    assert longest_window_s("whisper-nano") == 10
    assert longest_window_s("openai/whisper-tiny") == 30


def test_a_card_is_read_without_torch() -> None:
    code = (
        "import sys; from serve_app.whisper.card import ModelCard; "
        "ModelCard.load('whisper-nano'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
