"""Features, encoder and decoder steps, compared with transformers'."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import WhisperProcessor
from transformers.convert_slow_tokenizer import bytes_to_unicode

from serve_app.models import model_source
from serve_app.settings import WhisperSettings
from serve_app.whisper.model.whisper_model import BYTE_DECODER, WhisperModel, bfloat16_is_fast
from tests.whisper.reference import reference


def test_features_equal_transformers(nano: WhisperModel, windows: dict[str, NDArray[np.int16]]) -> None:
    processor = WhisperProcessor.from_pretrained(model_source("whisper-nano"))
    batch = nano.features(list(windows.values()))
    assert batch.shape == (4, 80, 3000)
    for row, window in zip(batch, windows.values(), strict=True):
        sound = window.astype(np.float64) / 32768
        expected = processor(sound, sampling_rate=16_000, return_tensors="pt").input_features[0]
        torch.testing.assert_close(row, expected, rtol=0, atol=1e-5)


def test_features_of_128_mels(large_layout: WhisperModel) -> None:
    assert large_layout.features([np.zeros(16_000, np.int16)]).shape == (1, 128, 300)


def test_step_at_different_positions_equals_a_full_pass(large_layout: WhisperModel) -> None:
    """Rows at different positions. The second is decoded token by token, the others in one call."""
    rng = np.random.default_rng(3)
    model = large_layout
    states = model.encode(model.features([(rng.normal(size=16_000) * 900).astype(np.int16) for _ in range(3)]))
    tokens = torch.tensor(rng.integers(0, 50_000, size=(3, 9)))
    self_kv, cross_kv = model.new_kv_cache(3, model.positions), model.new_kv_cache(3, model.audio_positions)
    model.write_cross_kv(states, cross_kv)
    model.decode_step(self_kv, cross_kv, tokens[:, :4], torch.arange(4).expand(3, -1), 4)
    starts = torch.tensor([1, 4, 2])  # the first and last rows' further tokens were padding, written again here
    rows = torch.arange(3)
    for offset in range(5):
        positions = starts + offset
        logits = model.logits(
            model.decode_step(
                self_kv, cross_kv, tokens[rows, positions][:, None], positions[:, None], int(positions.max()) + 1
            )
        )[:, 0]
        with torch.inference_mode():
            full = reference(model)(encoder_outputs=(states,), decoder_input_ids=tokens).logits
        torch.testing.assert_close(logits, full[rows, positions], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_encoder_states_equal_transformers(nano: WhisperModel, windows: dict[str, NDArray[np.int16]]) -> None:
    features = nano.features(list(windows.values()))
    with torch.inference_mode():
        expected = reference(nano).model.encoder(features).last_hidden_state
    torch.testing.assert_close(nano.encode(features), expected, rtol=1e-4, atol=1e-4)


def test_alignment_weights_equal_transformers(nano: WhisperModel, windows: dict[str, NDArray[np.int16]]) -> None:
    states = nano.encode(nano.features(list(windows.values())[:2]))
    tokens = torch.tensor([[407, 408, 509, 540, 331, 339], [407, 409, 509, 540, 345, 333]])
    with torch.inference_mode():
        expected = reference(nano, "eager")(
            encoder_outputs=(states,), decoder_input_ids=tokens, output_attentions=True
        ).cross_attentions
    weights = nano.alignment_weights(states, tokens)
    assert weights.shape == (2, len(nano.card.alignment_heads), 6, 1500)
    for index, (layer, head) in enumerate(nano.card.alignment_heads):
        torch.testing.assert_close(weights[:, index], expected[layer][:, head], rtol=1e-3, atol=1e-5)


def test_half_precision_checkpoints_on_a_cpu() -> None:
    model = WhisperModel.load("whisper-nano", WhisperSettings(device="cpu", threads=1))
    expected = torch.bfloat16 if bfloat16_is_fast() else torch.float32
    assert model.features([np.zeros(16_000, np.int16)]).dtype == expected


def test_the_dtype_can_be_set(windows: dict[str, NDArray[np.int16]]) -> None:
    model = WhisperModel.load("whisper-nano", WhisperSettings(device="cpu", dtype="bfloat16", threads=1))
    states = model.encode(model.features([windows["en.mp3"]]))
    assert states.dtype == torch.bfloat16
    assert model.logits(states[:, :1]).dtype == torch.float32


def test_a_prompt_is_tokenized_as_in_transformers(nano: WhisperModel) -> None:
    processor = WhisperProcessor.from_pretrained(model_source("whisper-nano"))
    prompt = nano.card.tokens.prompt(223, nano.tokenize(" three vier "))
    assert list(prompt) == processor.get_prompt_ids("three vier").tolist()


@pytest.mark.parametrize("text", ["", "  \n"])
def test_a_blank_prompt_has_no_tokens(nano: WhisperModel, text: str) -> None:
    assert nano.tokenize(text) == ()


def test_special_tokens_in_a_prompt_are_text(nano: WhisperModel) -> None:
    special = nano.card.tokens
    steering = set(nano.tokenize("one <|translate|><|de|><|endoftext|> two"))
    assert all(token < special.end for token in steering)


def test_byte_decoder() -> None:
    assert {byte: letter for letter, byte in BYTE_DECODER.items()} == bytes_to_unicode()
