"""Conversion of Whisper checkpoints from CTranslate2's format (used by faster-whisper) to Hugging Face's.

`model.bin` contains names, shapes, types and bytes, little-endian, and no code: see `_serialize` in CTranslate2's
python/ctranslate2/specs/model_spec.py. Uses numpy only, so that a launcher need not import torch.
"""

import json
import shutil
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from serve_app.whisper.model.tokens import CheckpointError

Array = NDArray[Any]

_FORMAT = (6, "WhisperSpec", 3)
_DTYPES = ("<f4", "i1", "<i2", "<i4", "<f2", "bfloat16")  # by their numbers in the file
_MULTILINGUAL_VOCABULARY = 51_865
"""The size of the smallest multilingual vocabulary; English-only ones have one token fewer."""


def is_ctranslate2(folder: Path) -> bool:
    """Return whether a folder holds a CTranslate2 model and no Hugging Face weights."""
    others = ("*.safetensors*", "pytorch_model*.bin*")
    return (folder / "model.bin").is_file() and not any(any(folder.glob(pattern)) for pattern in others)


def convert(source: Path, target: Path) -> None:
    """Convert the checkpoint in `source` and write it to the existing folder `target`.

    Supports float32, float16, bfloat16 (written as float32), and int8 or int16 with scales (written as float16). Raises
    CheckpointError if it is not a Whisper model of a supported version, or has no tokenizer.
    """
    if not (source / "tokenizer.json").is_file():
        raise CheckpointError(
            f"{source} has no tokenizer.json: copy the one of the Whisper model that it was converted from, "
            "such as openai/whisper-tiny's, or openai/whisper-tiny.en's for an English-only model"
        )
    variables = read_variables(source / "model.bin")
    try:
        config = json.loads((source / "config.json").read_text(encoding="utf-8"))
        tokenizer = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
        tokens = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
        written = _configs(variables, config, tokens)
        tensors = dict(_tensors(variables))
    except (KeyError, ValueError, FileNotFoundError) as error:
        raise CheckpointError(
            f"{source} is not a complete CTranslate2 Whisper model: {type(error).__name__}: {error}"
        ) from error
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    for name, content in written.items():
        (target / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    shutil.copyfile(source / "tokenizer.json", target / "tokenizer.json")


def read_variables(path: Path) -> dict[str, Array]:
    """Return the variables of a `model.bin` by name, dequantised, including aliases. Raises CheckpointError."""
    with path.open("rb") as file:
        try:
            found = (_number(file, "I"), _string(file), _number(file, "I"))
            if found != _FORMAT:
                raise CheckpointError(f"{path}: {_describe_format(found)}, but {_describe_format(_FORMAT)} is needed")
            raw = dict(_variable(file) for _ in range(_number(file, "I")))
            aliases = [(_string(file), _string(file)) for _ in range(_number(file, "I"))]
        except (struct.error, UnicodeDecodeError, ValueError, IndexError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"{path} is not a CTranslate2 model, or is truncated: {error}") from error
    variables = {
        name: _dequantised(value, raw[f"{name}_scale"]) if f"{name}_scale" in raw else value
        for name, value in raw.items()
        if not name.endswith("_scale")
    }
    return variables | {alias: variables[name] for alias, name in aliases}


def _number(file: BinaryIO, kind: str) -> int:
    (number,) = struct.unpack(f"<{kind}", file.read(struct.calcsize(f"<{kind}")))
    return int(number)


def _string(file: BinaryIO) -> str:
    return file.read(_number(file, "H"))[:-1].decode()  # its length counts a final zero


def _describe_format(found: tuple[int, str, int]) -> str:
    version, name, revision = found
    return f"{name[:40]!r} {revision} in format {version}"


def _variable(file: BinaryIO) -> tuple[str, Array]:
    name, shape = _string(file), [_number(file, "I") for _ in range(_number(file, "B"))]
    dtype = _DTYPES[_number(file, "B")]
    data = file.read(_number(file, "I"))
    if dtype == "bfloat16":  # numpy has none: the upper half of a float32
        value = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        value = np.frombuffer(data, dtype)
    return name, value.reshape(shape)


def _dequantised(value: Array, scale: Array) -> Array:
    """Divide each row by its scale, or all rows by a single scale."""
    scales = scale.astype(np.float32).reshape(-1, *(1,) * (value.ndim - 1))
    return (value.astype(np.float32) / scales).astype(np.float16)


def _tensors(variables: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
    """Yield the tensors of transformers' WhisperForConditionalGeneration."""

    def linear(source: str, *targets: str) -> Iterator[tuple[str, Array]]:
        """Split a linear layer's rows among the targets; keys have no bias."""
        for part in ("weight", "bias"):
            pieces = np.split(variables[f"{source}/{part}"], len(targets))
            for target, piece in zip(targets, pieces, strict=True):
                if part == "weight" or not target.endswith("k_proj"):
                    yield f"{target}.{part}", np.ascontiguousarray(piece)
                elif piece.any():
                    raise ValueError(f"{source} has a bias of keys, which no Whisper model has")

    def norm(source: str, target: str) -> Iterator[tuple[str, Array]]:
        yield f"{target}.weight", variables[f"{source}/gamma"]
        yield f"{target}.bias", variables[f"{source}/beta"]

    def attention(source: str, target: str, *inputs: str) -> Iterator[tuple[str, Array]]:
        """`inputs`: the projections that each linear layer before the last one computes."""
        for place, projected in enumerate(inputs):
            yield from linear(f"{source}/linear_{place}", *(f"{target}.{name}_proj" for name in projected))
        yield from linear(f"{source}/linear_{len(inputs)}", f"{target}.out_proj")
        yield from norm(f"{source}/layer_norm", f"{target}_layer_norm")

    for side in ("encoder", "decoder"):
        yield f"model.{side}.embed_positions.weight", variables[f"{side}/position_encodings/encodings"]
        yield from norm(f"{side}/layer_norm", f"model.{side}.layer_norm")
        for layer in range(_layers(variables, side)):
            source, target = f"{side}/layer_{layer}", f"model.{side}.layers.{layer}"
            yield from attention(f"{source}/self_attention", f"{target}.self_attn", "qkv")
            if side == "decoder":
                yield from attention(f"{source}/attention", f"{target}.encoder_attn", "q", "kv")
            yield from norm(f"{source}/ffn/layer_norm", f"{target}.final_layer_norm")
            yield from linear(f"{source}/ffn/linear_0", f"{target}.fc1")
            yield from linear(f"{source}/ffn/linear_1", f"{target}.fc2")
    for name in ("conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias"):
        yield f"model.encoder.{name}", variables[f"encoder/{name.replace('.', '/')}"]
    yield "model.decoder.embed_tokens.weight", variables["decoder/embeddings/weight"]


def _layers(variables: Mapping[str, Array], side: str) -> int:
    numbers = {name.split("/")[1] for name in variables if name.startswith(f"{side}/layer_")}
    return len(numbers - {"layer_norm"})


def _configs(
    variables: Mapping[str, Array], config: Mapping[str, Any], tokens: Mapping[str, int]
) -> dict[str, dict[str, Any]]:
    """Return the contents of the JSON files that transformers writes beside the weights, by file name."""
    vocabulary, width = variables["decoder/embeddings/weight"].shape
    mels = variables["encoder/conv1/weight"].shape[1]
    positions = len(variables["decoder/position_encodings/encodings"])
    end, start, last = tokens["<|endoftext|>"], tokens["<|startoftranscript|>"], tokens["<|notimestamps|>"]
    shared = {
        **{"bos_token_id": end, "eos_token_id": end, "pad_token_id": end, "decoder_start_token_id": start},
        "begin_suppress_tokens": config.get("suppress_ids_begin"),
        "suppress_tokens": config.get("suppress_ids"),
    }
    model: dict[str, Any] = {
        "architectures": ["WhisperForConditionalGeneration"],
        **{"model_type": "whisper", "activation_function": "gelu", "scale_embedding": False},
        **{"vocab_size": vocabulary, "d_model": width, "num_mel_bins": mels, "tie_word_embeddings": True},
        "dtype": str(variables["decoder/embeddings/weight"].dtype),
        "max_source_positions": len(variables["encoder/position_encodings/encodings"]),
        "max_target_positions": positions,
        **shared,
    }
    for side in ("encoder", "decoder"):
        model[f"{side}_layers"] = _layers(variables, side)
        model[f"{side}_attention_heads"] = int(variables[f"{side}/num_heads"])
        model[f"{side}_ffn_dim"] = len(variables[f"{side}/layer_0/ffn/linear_0/weight"])
    model["num_hidden_layers"] = model["encoder_layers"]
    generation: dict[str, Any] = {
        **shared,
        **{"max_length": positions, "max_initial_timestamp_index": 50, "return_timestamps": False},
        **{"no_timestamps_token_id": last, "prev_sot_token_id": tokens["<|startofprev|>"]},
        "is_multilingual": vocabulary >= _MULTILINGUAL_VOCABULARY,
    }
    if config.get("alignment_heads"):
        generation["alignment_heads"] = config["alignment_heads"]
    special = sorted((number, token) for token, number in tokens.items() if end < number <= last)
    if generation["is_multilingual"]:
        # Old folders do not list the language tokens; every Whisper vocabulary has them between these two.
        languages = config.get("lang_ids") or range(start + 1, tokens["<|translate|>"])
        generation["lang_to_id"] = {token: number for number, token in special if number in languages}
        generation["task_to_id"] = {task: tokens[f"<|{task}|>"] for task in ("transcribe", "translate")}
    tokenizer = {
        **{"tokenizer_class": "WhisperTokenizer", "processor_class": "WhisperProcessor", "model_max_length": 1024},
        **{"add_prefix_space": False, "errors": "replace", "return_attention_mask": False},
        "extra_special_tokens": [token for _, token in special],
        **{f"{name}_token": "<|endoftext|>" for name in ("bos", "eos", "pad", "unk")},
    }
    processor = {
        **{"feature_extractor_type": "WhisperFeatureExtractor", "processor_class": "WhisperProcessor"},
        **{"feature_size": mels, "sampling_rate": 16_000, "chunk_length": 30, "hop_length": 160, "n_fft": 400},
        **{"n_samples": 480_000, "nb_max_frames": 3000, "padding_side": "right", "padding_value": 0.0},
        "return_attention_mask": False,
    }
    return {
        "config.json": model,
        "generation_config.json": generation,
        "tokenizer_config.json": tokenizer,
        "preprocessor_config.json": processor,
    }
