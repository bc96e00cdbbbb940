"""A checkpoint in the formats of the engines it is measured against, from the same weights."""

import json
import re
import shutil
from collections.abc import Callable
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
"""What transformers renamed in OpenAI's state dict, in the order in which to rename it back."""
_OPENAI = "openai.pt"


def openai_name(name: str) -> str:
    """OpenAI's name of a weight of transformers' Whisper."""
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def to_openai(checkpoint: Path, folder: Path) -> Path:
    """The file that `whisper.load_model` loads, in float32; written in `folder` unless it is there."""
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
    """The folder that CTranslate2 and faster-whisper load, in float32; written unless it is there.

    They quantise while they load: the precision is chosen then.
    """
    return _convert(checkpoint, folder, _write_ctranslate2)


def _write_ctranslate2(checkpoint: Path, folder: Path) -> None:
    from ctranslate2.converters import TransformersConverter

    # Newer converters write tokenizer.json themselves and refuse to copy one; older ones leave it to us.
    TransformersConverter(str(checkpoint)).convert(str(folder))
    if not (folder / "tokenizer.json").exists():
        shutil.copy(checkpoint / "tokenizer.json", folder)


def _convert(checkpoint: Path, folder: Path, write: Callable[[Path, Path], None]) -> Path:
    """`folder` with the checkpoint converted: anew if what lies there is incomplete or of other files.

    It is written beside and renamed, so that a conversion that broke off is never taken for a whole one.
    """
    source = folder / "source.json"
    files = {file.name: [file.stat().st_size, file.stat().st_mtime_ns] for file in sorted(checkpoint.iterdir())}
    stamp = json.dumps({"checkpoint": str(checkpoint.resolve()), "files": files})
    if source.exists() and source.read_text() == stamp:
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent) as temporary:
        converted = Path(temporary) / "converted"
        write(checkpoint, converted)
        (converted / source.name).write_text(stamp)
        shutil.rmtree(folder, ignore_errors=True)
        converted.rename(folder)
    return folder


def tiktoken_encoding(checkpoint: Path) -> Any:
    """The checkpoint's own vocabulary as openai-whisper's tokenizer holds one."""
    import tiktoken

    tokenizer = json.loads((checkpoint / "tokenizer.json").read_text(encoding="utf-8"))
    byte = {character: number for number, character in bytes_to_unicode().items()}
    special = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    # Some files leave out the timestamps, which are the last tokens of every Whisper.
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
