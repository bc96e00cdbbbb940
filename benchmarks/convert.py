"""Conversion of a checkpoint to the formats of other engines, with the same weights."""

import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import WhisperForConditionalGeneration
from transformers.convert_slow_tokenizer import bytes_to_unicode

_RENAMED = (
    (r"^model\.", ""),
    (r"\.layers\.", ".blocks."),
    (r"embed_positions\.weight", "positional_embedding"),
    (r"embed_tokens", "token_embedding"),
    (r"encoder_attn_layer_norm", "cross_attn_ln"),
    (r"encoder_attn", "cross_attn"),
    (r"self_attn_layer_norm", "attn_ln"),
    (r"self_attn", "attn"),
    (r"q_proj", "query"),
    (r"k_proj", "key"),
    (r"v_proj", "value"),
    (r"out_proj", "out"),
    (r"final_layer_norm", "mlp_ln"),
    (r"fc1", "mlp.0"),
    (r"fc2", "mlp.2"),
    (r"^encoder\.layer_norm", "encoder.ln_post"),
    (r"^decoder\.layer_norm", "decoder.ln"),
)
"""Patterns that transformers renamed in OpenAI's state dict, in the order in which to rename them back."""
_OPENAI = "openai.pt"


def openai_name(name: str) -> str:
    """Return OpenAI's name of a weight of transformers' Whisper."""
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def to_openai(checkpoint: Path, folder: Path) -> Path:
    """Return the file for `whisper.load_model`, in float32; it is written to `folder` unless it exists."""
    return _convert(checkpoint, folder, _write_openai) / _OPENAI


def _write_openai(checkpoint: Path, folder: Path) -> None:
    network = WhisperForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
    config = network.config
    dimensions = {
        "n_mels": config.num_mel_bins,
        "n_audio_ctx": config.max_source_positions,
        "n_audio_state": config.d_model,
        "n_audio_head": config.encoder_attention_heads,
        "n_audio_layer": config.encoder_layers,
        "n_vocab": config.vocab_size,
        "n_text_ctx": config.max_target_positions,
        "n_text_state": config.d_model,
        "n_text_head": config.decoder_attention_heads,
        "n_text_layer": config.decoder_layers,
    }
    weights = {openai_name(name): weight for name, weight in network.state_dict().items() if name != "proj_out.weight"}
    folder.mkdir()
    torch.save({"dims": dimensions, "model_state_dict": weights}, folder / _OPENAI)


def to_ctranslate2(checkpoint: Path, folder: Path) -> Path:
    """Return the folder for CTranslate2 and faster-whisper, in float32; it is written unless it exists.

    They quantise while loading: the precision is selected then.
    """
    return _convert(checkpoint, folder, _write_ctranslate2)


def _write_ctranslate2(checkpoint: Path, folder: Path) -> None:
    from ctranslate2.converters import TransformersConverter

    # Newer converters write tokenizer.json themselves and refuse to copy one; older ones do not.
    TransformersConverter(str(checkpoint)).convert(str(folder))
    if not (folder / "tokenizer.json").exists():
        shutil.copy(checkpoint / "tokenizer.json", folder)


def _convert(checkpoint: Path, folder: Path, write: Callable[[Path, Path], None]) -> Path:
    """Return `folder` with the converted checkpoint; convert again if it is incomplete or from other files.

    The conversion is written under a temporary name and renamed, so that an interrupted one is never used.
    """
    source = folder / "source.json"
    files = {file.name: [file.stat().st_size, file.stat().st_mtime_ns] for file in sorted(checkpoint.iterdir())}
    stamp = json.dumps({"checkpoint": str(checkpoint.resolve()), "files": files})
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.parent):
        if source.exists() and source.read_text() == stamp:
            return folder
        with TemporaryDirectory(dir=folder.parent) as temporary:
            converted = Path(temporary) / "converted"
            write(checkpoint, converted)
            (converted / source.name).write_text(stamp)
            shutil.rmtree(folder, ignore_errors=True)
            converted.rename(folder)
    return folder


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock a folder: engines that read the same format start at the same time, and one of them converts."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def tiktoken_encoding(checkpoint: Path) -> Any:
    """Return the checkpoint's vocabulary as a tiktoken encoding, as openai-whisper's tokenizer needs it."""
    import tiktoken

    tokenizer = json.loads((checkpoint / "tokenizer.json").read_text(encoding="utf-8"))
    byte = {character: number for number, character in bytes_to_unicode().items()}
    special = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    # Some files omit the timestamps, which are the last tokens of every Whisper.
    first = special["<|notimestamps|>"] + 1
    special["<|nospeech|>"] = first - 2  # called <|nocaptions|> elsewhere
    special |= {f"<|{step * 0.02:.2f}|>": first + step for step in range(1501)}
    words = {token: number for token, number in tokenizer["model"]["vocab"].items() if token not in special}
    special.pop("<|nocaptions|>", None)
    return tiktoken.Encoding(
        name=checkpoint.name,
        explicit_n_vocab=len(words) + len(special),
        pat_str=r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+""",
        mergeable_ranks={bytes(byte[character] for character in token): number for token, number in words.items()},
        special_tokens=special,
    )
