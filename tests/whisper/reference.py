"""transformers' own Whisper with a model's weights, which the engine is compared with."""

from functools import cache

import torch
from transformers import WhisperForConditionalGeneration

from serve_app.whisper.model.whisper_model import WhisperModel


def reference(model: WhisperModel, attention: str = "sdpa") -> WhisperForConditionalGeneration:
    """Return the same checkpoint in float32, loaded once; eager attention returns its weights."""
    return _loaded(model.card.source, attention)


@cache
def _loaded(source: str, attention: str) -> WhisperForConditionalGeneration:
    network = WhisperForConditionalGeneration.from_pretrained(
        source, dtype=torch.float32, attn_implementation=attention
    )
    return network.eval()
