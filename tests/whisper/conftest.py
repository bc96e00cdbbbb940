"""Real checkpoints and real sound for the engine's tests."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration, WhisperTokenizer
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from serve_app.models import model_source
from serve_app.settings import WhisperSettings
from serve_app.whisper.model.whisper_model import WhisperModel

DATA = Path(__file__).parent.parent / "data"
TRANSCRIPTS = {
    "en.mp3": ("en", "three one four one five nine"),
    "de.opus": ("de", "zwei sieben eins acht zwei acht"),
    "fr.flac": ("fr", "un quatre un quatre deux un"),
    "es.wav": ("es", "uno siete tres dos cero cinco"),
}

POSITIONS = 40  # of the random models' decoders, and
SECONDS = 3  # of sound before their encoders: short, for speed

# Test runs that share few cores wait for each other's threads otherwise, for minutes.
ONE_THREAD = WhisperSettings(device="cpu", dtype="float32", threads=1)
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def transcripts() -> dict[str, tuple[str, str]]:
    """Return the language and the text of each recording of tests/data."""
    return TRANSCRIPTS


@pytest.fixture(scope="session")
def windows() -> dict[str, NDArray[np.int16]]:
    """The recordings of tests/data as 16 kHz windows."""
    return {name: _decode(DATA / name) for name in TRANSCRIPTS}


def _decode(path: Path) -> NDArray[np.int16]:
    resampler = av.AudioResampler("s16", "mono", 16_000)
    with av.open(path) as container:
        frames = [piece for frame in container.decode(audio=0) for piece in resampler.resample(frame)]
    frames += resampler.resample(None)
    return np.concatenate([frame.to_ndarray()[0] for frame in frames])


@pytest.fixture(scope="session")
def nano() -> WhisperModel:
    return WhisperModel.load("whisper-nano", ONE_THREAD)


@pytest.fixture(scope="session")
def nano_bfloat16() -> WhisperModel:
    return WhisperModel.load("whisper-nano", ONE_THREAD.model_copy(update={"dtype": "bfloat16"}))


@pytest.fixture(scope="session")
def large_layout(tmp_path_factory: pytest.TempPathFactory) -> WhisperModel:
    """Random weights with whisper-large-v3's vocabulary, special tokens, 128 mels and suppressions."""
    languages = [f"<|{code}|>" for code in LANGUAGES]
    return _random_model(
        tmp_path_factory.mktemp("random"),
        vocabulary=51_866,
        mels=128,
        seed=21,
        end_like=4,
        generation={
            "decoder_start_token_id": 50_258,
            "eos_token_id": 50_257,
            "pad_token_id": 50_257,
            "bos_token_id": 50_257,
            "no_timestamps_token_id": 50_364,
            "is_multilingual": True,
            "lang_to_id": {token: 50_259 + index for index, token in enumerate(languages)},
            "task_to_id": {"translate": 50_359, "transcribe": 50_360},
            "max_initial_timestamp_index": 50,
            "suppress_tokens": [1, 2, 7, 8, 9, 10, 14, 25, 50_258, 50_359, 50_360, 50_361, 50_362, 50_363],
            "begin_suppress_tokens": [220, 50_257],
        },
    )


@pytest.fixture(scope="session")
def noises() -> list[NDArray[np.int16]]:
    rng = np.random.default_rng(1)
    return [(rng.normal(size=8_000 * (1 + i % 6)) * 3000 * rng.random()).astype(np.int16) for i in range(16)]


@pytest.fixture(scope="session")
def large_states(large_layout: WhisperModel, noises: list[NDArray[np.int16]]) -> Tensor:
    return torch.cat([large_layout.encode(large_layout.features([noise])) for noise in noises])


@pytest.fixture(scope="session")
def english_only(tmp_path_factory: pytest.TempPathFactory) -> WhisperModel:
    """Random weights with the vocabulary of whisper-tiny.en, which has no language or task tokens."""
    return _random_model(
        tmp_path_factory.mktemp("random"),
        vocabulary=51_864,
        mels=80,
        seed=20,
        end_like=9,
        generation={
            "decoder_start_token_id": 50_257,
            "eos_token_id": 50_256,
            "pad_token_id": 50_256,
            "bos_token_id": 50_256,
            "no_timestamps_token_id": 50_362,
            "is_multilingual": False,
            "max_initial_timestamp_index": 50,
            "suppress_tokens": [1, 2, 7, 50_257, 50_357, 50_358, 50_359, 50_360, 50_361],
            "begin_suppress_tokens": [220, 50_256],
        },
    )


def _random_model(
    folder: Path, vocabulary: int, mels: int, seed: int, end_like: int, generation: dict[str, object]
) -> WhisperModel:
    torch.manual_seed(seed)
    config = WhisperConfig(
        vocab_size=vocabulary,
        num_mel_bins=mels,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_target_positions=POSITIONS,
        max_source_positions=50 * SECONDS,
        init_std=0.5,
        pad_token_id=generation["pad_token_id"],
        bos_token_id=generation["bos_token_id"],
        eos_token_id=generation["eos_token_id"],
        decoder_start_token_id=generation["decoder_start_token_id"],
        begin_suppress_tokens=None,
        suppress_tokens=None,
    )
    network = WhisperForConditionalGeneration(config).eval()
    with torch.no_grad():
        # A random end token (the padding token's row starts as zeros), long enough to win now and then.
        embeddings = network.model.decoder.embed_tokens.weight
        embeddings[config.eos_token_id] = 2.2 * embeddings[end_like]
    network.generation_config = GenerationConfig(max_length=POSITIONS, **generation)
    network.save_pretrained(folder)
    # Token ids never meet this tokenizer: it belongs to another vocabulary.
    WhisperTokenizer.from_pretrained(model_source("whisper-nano")).save_pretrained(folder)
    return WhisperModel.load(str(folder), ONE_THREAD)
