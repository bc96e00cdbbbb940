"""A checkpoint in the formats of the engines it is measured against, from the same weights."""

import json
import re
from pathlib import Path
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


def openai_name(name: str) -> str:
    """OpenAI's name of a weight of transformers' Whisper."""
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def to_openai(checkpoint: Path, file: Path) -> Path:
    """Writes what `whisper.load_model` loads, in float32, unless it is there."""
    if file.exists():
        return file
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
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"dims": dimensions, "model_state_dict": weights}, file)
    return file


def to_ctranslate2(checkpoint: Path, folder: Path) -> Path:
    """Writes what CTranslate2 and faster-whisper load, in float32, unless it is there.

    They quantise while they load: the precision is chosen then.
    """
    from ctranslate2.converters import TransformersConverter

    if not (folder / "model.bin").exists():
        TransformersConverter(str(checkpoint), copy_files=["tokenizer.json"]).convert(str(folder), force=True)
    return folder


def tiktoken_encoding(checkpoint: Path) -> Any:
    """The checkpoint's own vocabulary as openai-whisper's tokenizer holds one."""
    import tiktoken

    tokenizer = json.loads((checkpoint / "tokenizer.json").read_text(encoding="utf-8"))
    byte = {character: number for number, character in bytes_to_unicode().items()}
    special = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    words = {token: number for token, number in tokenizer["model"]["vocab"].items() if token not in special}
    return tiktoken.Encoding(
        name=checkpoint.name,
        explicit_n_vocab=len(words) + len(special),
        pat_str=r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+""",
        mergeable_ranks={bytes(byte[character] for character in token): number for token, number in words.items()},
        special_tokens=special,
    )
