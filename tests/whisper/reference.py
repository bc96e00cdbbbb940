"""What the engine is held against: transformers' own Whisper, with a model's weights."""

from functools import cache

import torch
from transformers import WhisperForConditionalGeneration

from serve_app.whisper.model.whisper_model import WhisperModel


def reference(model: WhisperModel, attention: str = "sdpa") -> WhisperForConditionalGeneration:
    """The same checkpoint in float32, loaded once; eager attention returns its weights."""
    return _loaded(model.card.source, attention)


@cache
def _loaded(source: str, attention: str) -> WhisperForConditionalGeneration:
    network = WhisperForConditionalGeneration.from_pretrained(
        source, dtype=torch.float32, attn_implementation=attention
    )
    return network.eval()
