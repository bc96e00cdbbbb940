"""Read a checkpoint's files, from a folder or the hub: JSON, weights, tokenizer.

They are read without transformers, which takes two seconds to import. It is used only for checkpoints in older formats.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor


def read_json(source: str, name: str) -> dict[str, Any]:
    """Return the object in a JSON file of a folder or hub id. Raises OSError if the file does not exist."""
    return cast(dict[str, Any], json.loads(_path(source, name).read_text(encoding="utf-8")))


def read_weights(source: str) -> "dict[str, Tensor]":
    """Return the tensors of a checkpoint by their names in transformers."""
    from safetensors.torch import load_file

    try:
        return load_file(_path(source, "model.safetensors"))
    except (FileNotFoundError, EntryNotFoundError):  # sharded weights, or pickles
        from transformers import WhisperForConditionalGeneration

        return WhisperForConditionalGeneration.from_pretrained(source).state_dict()


def read_tokenizer(source: str) -> "Tokenizer":
    """Return the tokenizer of a checkpoint."""
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(_path(source, "tokenizer.json")))
    except (FileNotFoundError, EntryNotFoundError):  # vocab.json and merges.txt
        from transformers import WhisperTokenizer

        return cast(Tokenizer, WhisperTokenizer.from_pretrained(source).backend_tokenizer)


def _path(source: str, name: str) -> Path:
    if not Path(source).is_dir():
        return Path(hf_hub_download(source, name))
    path = Path(source) / name
    if not path.is_file():
        raise FileNotFoundError(f"{source} has no {name}")
    return path
