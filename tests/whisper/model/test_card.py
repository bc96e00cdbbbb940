"""Model cards and special tokens, read from a checkpoint's JSON files."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from serve_app.errors import InvalidRequest
from serve_app.models import longest_window_s, model_source
from serve_app.schemas.request import TranscriptionOptions
from serve_app.whisper.model.card import ModelCard
from serve_app.whisper.model.tokens import CheckpointError

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
    config = {
        "model_type": kind,
        "encoder_layers": layers[0],
        "decoder_layers": layers[1],
        "decoder_attention_heads": 2,
        "vocab_size": 51_865,
        "max_target_positions": 448,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return ModelCard.load(str(folder))


def validation_error(card: ModelCard, **options: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        card.validate_options(TranscriptionOptions(**options))
    return caught.value


def test_nano(nano_card: ModelCard) -> None:
    assert nano_card.id == "whisper-nano"
    assert nano_card.languages == ("de", "en", "es", "fr")
    for language in (None, "German", "es"):
        for task in ("transcribe", "translate"):
            nano_card.validate_options(TranscriptionOptions(language=language, task=task))


def test_an_unsupported_language_is_rejected(nano_card: ModelCard) -> None:
    error = validation_error(nano_card, language="ja")
    assert error.param == "language"
    assert "japanese (ja)" in error.message
    assert "de, en, es, fr" in error.message


def test_an_english_only_checkpoint(tmp_path: Path) -> None:
    english = card(tmp_path, ENGLISH)
    assert english.languages == ("en",)
    english.validate_options(TranscriptionOptions())
    english.validate_options(TranscriptionOptions(language="english"))
    assert validation_error(english, language="de").param == "language"
    assert validation_error(english, task="translate").param == "task"


@pytest.mark.parametrize(
    ("layers", "can_translate"), [((32, 32), True), ((4, 3), True), ((32, 4), False), ((32, 2), False)]
)
def test_a_pruned_decoder_does_not_translate(tmp_path: Path, layers: tuple[int, int], can_translate: bool) -> None:
    """As whisper-large-v3-turbo (4 of 32 layers) and distil-whisper (2)."""
    pruned = card(tmp_path, MULTILINGUAL, layers)
    assert pruned.languages == ("en", "ja", "yue")
    assert pruned.can_translate is can_translate
    if not can_translate:
        assert validation_error(pruned, task="translate").param == "task"


def test_special_tokens_of_large_v3(tmp_path: Path) -> None:
    tokens = card(tmp_path, MULTILINGUAL).tokens
    assert (tokens.start_of_prev, tokens.no_speech, tokens.first_timestamp) == (50362, 50363, 50365)
    assert tokens.prefix(tokens.languages["ja"], "translate", with_timestamps=True) == (50258, 50266, 50359)
    assert tokens.prefix(tokens.languages["ja"], "transcribe", with_timestamps=False) == (50258, 50266, 50360, 50364)
    assert tokens.prefix(None, "transcribe", with_timestamps=True) == (50258,)
    assert tokens.prefix(None, "transcribe", with_timestamps=False) == (50258, 50364)


@pytest.mark.parametrize(
    ("parts", "prompt"),
    [
        ([], ()),
        ([[], []], ()),
        ([[1, 2]], (50362, 1, 2)),
        ([[1, 2, 3, 4]], (50362, 2, 3, 4)),
        ([[1, 2], [5, 6, 7]], (50362, 1, 2, 7)),
        ([[1, 2, 3], [5, 6, 7]], (50362, 1, 2, 3)),
        ([[], [5, 6]], (50362, 5, 6)),
    ],
)
def test_prompt_parts_are_truncated_at_their_start(
    tmp_path: Path, parts: list[list[int]], prompt: tuple[int, ...]
) -> None:
    assert card(tmp_path, MULTILINGUAL).tokens.prompt(3, *parts) == prompt


@pytest.mark.parametrize("key", ["no_timestamps_token_id", "lang_to_id", "eos_token_id"])
def test_missing_keys_of_a_generation_config_are_named(tmp_path: Path, key: str) -> None:
    broken = {name: value for name, value in MULTILINGUAL.items() if name != key}
    with pytest.raises(CheckpointError, match=key):
        card(tmp_path, broken)


def test_another_model_type_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="wav2vec2"):
        card(tmp_path, MULTILINGUAL, kind="wav2vec2")


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"config\.json"):
        ModelCard.load(str(tmp_path))


def test_the_embedded_model_is_in_the_package() -> None:
    assert (Path(model_source("whisper-nano")) / "model.safetensors").is_file()
    assert model_source("openai/whisper-tiny") == "openai/whisper-tiny"
    assert longest_window_s("whisper-nano") == 10
    assert longest_window_s("openai/whisper-tiny") == 30


def test_a_card_is_read_without_torch() -> None:
    code = (
        "import sys; from serve_app.whisper.model.card import ModelCard; "
        "ModelCard.load('whisper-nano'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_alignment_heads_default_to_the_upper_half(tmp_path: Path) -> None:
    assert card(tmp_path, MULTILINGUAL | {"alignment_heads": [[1, 0], [3, 1]]}).alignment_heads == ((1, 0), (3, 1))
    assert card(tmp_path, MULTILINGUAL).alignment_heads == ((2, 0), (2, 1), (3, 0), (3, 1))


def test_an_unknown_token_is_rejected(nano_card: ModelCard) -> None:
    error = validation_error(nano_card, suppress_tokens=(-1, 2015))
    assert (error.param, "2015 is not a token of" in error.message) == ("suppress_tokens", True)
    nano_card.validate_options(TranscriptionOptions(suppress_tokens=(-1, 2014)))


@pytest.mark.parametrize(
    ("options", "most"),
    [({}, 444), ({"prompt": "one"}, 220), ({"hotwords": "one"}, 220), ({"condition_on_previous_text": True}, 220)],
)
def test_too_large_max_new_tokens_are_rejected(nano_card: ModelCard, options: dict[str, Any], most: int) -> None:
    nano_card.validate_options(TranscriptionOptions(**options, max_new_tokens=most))
    error = validation_error(nano_card, **options, max_new_tokens=most + 1)
    assert (error.param, f"must be at most {most}: " in error.message) == (
        "max_new_tokens",
        True,
    )


def test_the_beam_size_is_that_of_the_generation_config(tmp_path: Path) -> None:
    assert card(tmp_path, MULTILINGUAL).beam_size == 1
    assert card(tmp_path, MULTILINGUAL | {"num_beams": 5}).beam_size == 5
    assert card(tmp_path, MULTILINGUAL | {"num_beams": 99}).beam_size == 16, "as many as a client may ask for"
