"""Converted CTranslate2 checkpoints, compared with their originals."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor
from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration, WhisperTokenizer

from serve_app.models import model_source
from serve_app.models.ctranslate2 import convert, is_ctranslate2, read_variables
from serve_app.whisper.model.card import ModelCard
from serve_app.whisper.model.tokens import CheckpointError
from tests.models.tiny import random_variables, write_checkpoint, write_variables

QUANTIZATIONS = {None: 0.0, "float16": 1e-3, "bfloat16": 1e-2, "int8": 1e-2, "int8_float16": 1e-2, "int16": 5e-3}
"""The allowed error of a weight by type, as a share of the largest in its row."""


def test_conversion_keeps_all_weights(tmp_path: Path) -> None:
    source, target = write_checkpoint(tmp_path / "ct2"), tmp_path / "hf"
    target.mkdir()
    convert(source, target)
    tensors, variables = load_file(target / "model.safetensors"), random_variables()
    attention = "model.decoder.layers.0.self_attn"
    joined = np.concatenate([tensors[f"{attention}.{name}_proj.weight"] for name in "qkv"])
    np.testing.assert_array_equal(joined, variables["decoder/layer_0/self_attention/linear_0/weight"])
    np.testing.assert_array_equal(
        tensors["model.decoder.layers.0.encoder_attn.v_proj.bias"],
        variables["decoder/layer_0/attention/linear_1/bias"][8:],
    )
    written = sum(value.size for value in variables.values() if value.ndim)
    keys = 3 * 8  # the zero bias of the keys is omitted
    assert sum(tensor.size for tensor in tensors.values()) == written - keys

    loaded, report = WhisperForConditionalGeneration.from_pretrained(target, output_loading_info=True)
    assert not any(report.values()), report
    assert loaded.config.encoder_attention_heads == 2
    card = ModelCard.load(str(target))
    assert (card.languages, card.tokens.suppressed, card.tokens.suppressed_at_begin) == (("en",), (1, 2), (3,))


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_conversion_to_ctranslate2_and_back(
    tmp_path: Path, quantization: str | None, original: tuple[Path, dict[str, Tensor]]
) -> None:
    ctranslate2 = pytest.importorskip("ctranslate2", reason="ctranslate2 is not installed (make bench installs it)")
    source, weights = original
    converted, target = tmp_path / "ct2", tmp_path / "hf"
    converter = ctranslate2.converters.TransformersConverter(str(source), copy_files=["tokenizer.json"])
    converter.convert(str(converted), quantization=quantization)
    target.mkdir()
    assert is_ctranslate2(converted)
    convert(converted, target)
    loaded, report = WhisperForConditionalGeneration.from_pretrained(
        target, dtype=torch.float32, output_loading_info=True
    )
    assert not any(report.values()), report
    for name, tensor in loaded.state_dict().items():
        largest = weights[name].flatten(1).abs().amax(1) if weights[name].ndim > 1 else weights[name].abs().max()
        error = (tensor - weights[name]).abs() / largest.clamp(min=1e-9).reshape(-1, *(1,) * (tensor.ndim - 1))
        assert error.max() <= QUANTIZATIONS[quantization], name
    ours, theirs = ModelCard.load(str(target)), ModelCard.load(str(source))
    assert ours.tokens == theirs.tokens
    assert ours.alignment_heads == theirs.alignment_heads
    assert ours.languages == theirs.languages


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """Write a random model with whisper-nano's tokens and whisper-base's vocabulary size; return its weights."""
    nano, folder = model_source("whisper-nano"), tmp_path_factory.mktemp("original")
    sizes = {"d_model": 32, "encoder_layers": 3, "decoder_layers": 2, "max_source_positions": 150, "init_std": 0.5}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 48}
    torch.manual_seed(3)
    config = WhisperConfig.from_pretrained(nano, vocab_size=51_865, max_target_positions=40, **sizes, **heads)
    network = WhisperForConditionalGeneration(config)
    network.generation_config = GenerationConfig.from_pretrained(nano)
    network.generation_config.alignment_heads = [[0, 1], [1, 0]]
    network.generation_config.max_initial_timestamp_index = 50  # as in OpenAI's models; it is not stored
    network.save_pretrained(folder)
    WhisperTokenizer.from_pretrained(nano).save_pretrained(folder)
    return folder, network.state_dict()


def test_missing_files_and_variables_are_named(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "ct2")
    (source / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"ct2 has no tokenizer\.json: copy the one of .*openai/whisper-tiny"):
        convert(source, tmp_path)
    write_checkpoint(source)
    (source / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"not a complete CTranslate2 Whisper model: .*config\.json"):
        convert(source, tmp_path)
    write_checkpoint(source)
    variables = random_variables()
    del variables["encoder/layer_0/ffn/linear_1/bias"]
    write_variables(source / "model.bin", variables, {})
    with pytest.raises(CheckpointError, match=r"not a complete .*encoder/layer_0/ffn/linear_1/bias"):
        convert(source, tmp_path)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"", "is truncated"),
        (b"\x80\x02}q\x00.", "is truncated"),
        (b"\x05\0\0\0\x0c\0WhisperSpec\0\x03\0\0\0", "'WhisperSpec' 3 in format 5, but 'WhisperSpec' 3 in format 6"),
        (b"\x06\0\0\0\x10\0TransformerSpec\0\x07\0\0\0", "'TransformerSpec' 7 in format 6, but"),
    ],
)
def test_other_formats_are_rejected(tmp_path: Path, start: bytes, message: str) -> None:
    (tmp_path / "model.bin").write_bytes(start)
    with pytest.raises(CheckpointError, match=re.escape(message)):
        read_variables(tmp_path / "model.bin")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
def test_truncated_file_is_rejected(tmp_path: Path, share: float) -> None:
    path = write_checkpoint(tmp_path) / "model.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match=r"model\.bin is not a CTranslate2 model, or is truncated"):
        read_variables(path)


def test_is_ctranslate2(tmp_path: Path) -> None:
    assert not is_ctranslate2(tmp_path)
    assert not is_ctranslate2(tmp_path / "none")
    write_checkpoint(tmp_path)
    assert is_ctranslate2(tmp_path)
    (tmp_path / "model.safetensors").touch()
    assert not is_ctranslate2(tmp_path)
