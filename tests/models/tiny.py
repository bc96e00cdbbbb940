"""A tiny Whisper in CTranslate2's format, with whisper-nano's tokenizer and random weights."""

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.models import model_source

Array = NDArray[Any]

WIDTH, INNER, MELS, STATES, POSITIONS, VOCABULARY = 8, 12, 80, 1500, 40, 2016
DTYPES = ["float32", "int8", "int16", "int32", "float16"]
TOKENIZER = Path(model_source("whisper-nano")) / "tokenizer.json"


def write_checkpoint(folder: Path, seed: int = 1) -> Path:
    """Write a complete folder: `model.bin`, `config.json` and `tokenizer.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    variables = random_variables(seed)
    write_variables(folder / "model.bin", variables, aliases={"decoder/projection/weight": "decoder/embeddings/weight"})
    (folder / "config.json").write_text('{"suppress_ids": [1, 2], "suppress_ids_begin": [3]}')
    (folder / "tokenizer.json").write_bytes(TOKENIZER.read_bytes())
    return folder


def random_variables(seed: int = 1) -> dict[str, Array]:
    """Return one encoder layer and one decoder layer, with CTranslate2's names."""
    rng = np.random.default_rng(seed)
    found: dict[str, Array] = {}

    def random(name: str, *shape: int) -> None:
        found[name] = rng.normal(size=shape).astype(np.float16)

    def linear(name: str, rows: int, columns: int, keys: slice | None = None) -> None:
        random(f"{name}/weight", rows, columns)
        random(f"{name}/bias", rows)
        if keys is not None:
            found[f"{name}/bias"][keys] = 0

    def norm(name: str) -> None:
        random(f"{name}/gamma", WIDTH)
        random(f"{name}/beta", WIDTH)

    random("encoder/conv1/weight", WIDTH, MELS, 3)
    random("encoder/conv2/weight", WIDTH, WIDTH, 3)
    for conv in ("conv1", "conv2"):
        random(f"encoder/{conv}/bias", WIDTH)
    random("decoder/embeddings/weight", VOCABULARY, WIDTH)
    for side, positions in (("encoder", STATES), ("decoder", POSITIONS)):
        found[f"{side}/num_heads"] = np.array(2, np.int16)
        random(f"{side}/position_encodings/encodings", positions, WIDTH)
        norm(f"{side}/layer_norm")
        layer = f"{side}/layer_0"
        linear(f"{layer}/self_attention/linear_0", 3 * WIDTH, WIDTH, keys=slice(WIDTH, 2 * WIDTH))
        linear(f"{layer}/self_attention/linear_1", WIDTH, WIDTH)
        norm(f"{layer}/self_attention/layer_norm")
        linear(f"{layer}/ffn/linear_0", INNER, WIDTH)
        linear(f"{layer}/ffn/linear_1", WIDTH, INNER)
        norm(f"{layer}/ffn/layer_norm")
    linear("decoder/layer_0/attention/linear_0", WIDTH, WIDTH)
    linear("decoder/layer_0/attention/linear_1", 2 * WIDTH, WIDTH, keys=slice(0, WIDTH))
    linear("decoder/layer_0/attention/linear_2", WIDTH, WIDTH)
    norm("decoder/layer_0/attention/layer_norm")
    return found


def write_variables(path: Path, variables: Mapping[str, Array], aliases: Mapping[str, str]) -> None:
    """Write the format of CTranslate2's `ModelSpec._serialize`."""

    def string(text: str) -> bytes:
        return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"

    with path.open("wb") as file:
        file.write(struct.pack("<I", 6) + string("WhisperSpec") + struct.pack("<II", 3, len(variables)))
        for name, value in sorted(variables.items()):
            file.write(string(name) + struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape))
            file.write(struct.pack("<BI", DTYPES.index(value.dtype.name), value.nbytes) + value.tobytes())
        file.write(struct.pack("<I", len(aliases)))
        for alias, name in aliases.items():
            file.write(string(alias) + string(name))
