"""The model in training: Whisper, its initial weights, and auxiliary heads that are dropped at export."""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from transformers import WhisperConfig, WhisperForConditionalGeneration

from training.whisper_nano.batches import Batch
from training.whisper_nano.targets import NO_WORD
from training.whisper_nano.tokenizer import ALIGNMENT_HEAD

ENCODER_OFFSETS = ((0, -3, 3, 0), (-6, 6, -2, 2), (-10, 10, -4, 4), (-16, 16, -6, 6))
"""The initial offset, in positions, of each encoder head's attention, by layer."""
DECODER_OFFSETS = (12, 0, 25, 0)
GUIDED_HEADS = {(1, 0): "next", (1, 1): "current", ALIGNMENT_HEAD: "until_next", (2, 1): "current", (2, 2): "next"}
"""The span (see targets.SPANS) that each guided (layer, head) of the decoder is trained to attend to."""


@dataclass(frozen=True)
class Outputs:
    """Logits of the next token (rows, L, vocabulary); log attention (rows, L, positions) of each of GUIDED_HEADS;
    logits of the word at each position (rows, positions, 41) and of its neighbours (rows, positions, 3, 41).
    """

    tokens: Tensor
    attention: dict[tuple[int, int], Tensor]
    words: Tensor
    neighbours: Tensor


class TrainedWhisper(nn.Module):
    """Whisper with a head for the word at each encoder position, and one for the words around it.

    Naming the neighbours makes the encoder distinguish repeated words, which long windows need most.
    """

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.whisper = WhisperForConditionalGeneration(config)
        self.words = nn.Linear(config.d_model, NO_WORD + 1)
        self.neighbours = nn.Linear(config.d_model, 3 * (NO_WORD + 1))

    def forward(self, batch: Batch) -> Outputs:
        """Run windows that may be shorter than 30 s, and start at any position, which makes training cheaper."""
        sound = self._encode(batch.features, batch.offsets)
        decoder: Any = self.whisper.model.decoder
        hidden = decoder.embed_tokens(batch.tokens) + decoder.embed_positions.weight[: batch.tokens.shape[1]]
        attention: dict[tuple[int, int], Tensor] = {}
        for index, layer in enumerate(decoder.layers):
            normal = layer.self_attn_layer_norm(hidden)
            query, key, value = (split_heads(layer.self_attn, name, normal) for name in "qkv")
            attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
            hidden = hidden + layer.self_attn.out_proj(attended.transpose(1, 2).flatten(2))
            normal = layer.encoder_attn_layer_norm(hidden)
            query = split_heads(layer.encoder_attn, "q", normal)
            key, value = (split_heads(layer.encoder_attn, name, sound) for name in "kv")
            log_attention = ((query @ key.transpose(2, 3)).float() * query.shape[-1] ** -0.5).log_softmax(-1)
            attention |= {place: log_attention[:, place[1]] for place in GUIDED_HEADS if place[0] == index}
            attended = log_attention.exp().to(value.dtype) @ value
            hidden = hidden + layer.encoder_attn.out_proj(attended.transpose(1, 2).flatten(2))
            hidden = hidden + layer.fc2(F.gelu(layer.fc1(layer.final_layer_norm(hidden))))
        logits = decoder.layer_norm(hidden) @ decoder.embed_tokens.weight.T
        return Outputs(logits, attention, self.words(sound), self.neighbours(sound).unflatten(-1, (3, NO_WORD + 1)))

    def _encode(self, features: Tensor, offsets: Tensor) -> Tensor:
        encoder: Any = self.whisper.model.encoder
        hidden = F.gelu(encoder.conv2(F.gelu(encoder.conv1(features)))).transpose(1, 2)
        hidden = hidden + encoder.embed_positions.weight[offsets[:, None] + torch.arange(hidden.shape[1])]
        for layer in encoder.layers:
            normal = layer.self_attn_layer_norm(hidden)
            query, key, value = (split_heads(layer.self_attn, name, normal) for name in "qkv")
            attended = F.scaled_dot_product_attention(query, key, value)
            hidden = hidden + layer.self_attn.out_proj(attended.transpose(1, 2).flatten(2))
            hidden = hidden + layer.fc2(F.gelu(layer.fc1(layer.final_layer_norm(hidden))))
        sound: Tensor = encoder.layer_norm(hidden)
        return sound


def split_heads(attention: Any, name: str, hidden: Tensor) -> Tensor:
    """Return (rows, heads, length, size) of the "q", "k" or "v" projection."""
    projected = getattr(attention, f"{name}_proj")(hidden)
    heads: Tensor = projected.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
    return heads


@torch.no_grad()
def initialise(model: TrainedWhisper, first_timestamp: int) -> None:
    """Set initial weights with which so small a model learns to align within minutes.

    Timestamp embeddings start as faint copies of their positions. Encoder heads attend at fixed offsets and decoder
    heads near their position in time, both through the sinusoids. Attention weights have a wider spread than
    transformers' 0.02.
    """
    encoder: Any = model.whisper.model.encoder
    decoder: Any = model.whisper.model.decoder
    positions, tokens = encoder.embed_positions.weight, decoder.embed_tokens.weight
    tokens.normal_(0, 0.05)
    tokens[first_timestamp:] = 0.1 * torch.cat([positions, positions[-1:]])
    decoder.embed_positions.weight.normal_(0, 0.03)
    for layer in decoder.layers:
        for attention in (layer.self_attn, layer.encoder_attn):
            for projection, deviation in (("q", 0.06), ("k", 0.06), ("v", 0.08), ("out", 0.05)):
                getattr(attention, f"{projection}_proj").weight.normal_(0, deviation)
        layer.fc1.weight.normal_(0, 0.06)
        layer.fc2.weight.normal_(0, 0.03)
        for head, distance in enumerate(DECODER_OFFSETS):
            attend_at_offset(layer.encoder_attn, head, distance, 0.9)
    for layer, distances in zip(encoder.layers, ENCODER_OFFSETS, strict=True):
        for head, distance in enumerate(distances):
            attend_at_offset(layer.self_attn, head, distance, 1.3)


def attend_at_offset(attention: Any, head: int, distance: int, gain: float) -> None:
    """Add to a head an attraction to the position `distance` later.

    This is a rotation of each sine and cosine pair of Whisper's positions; each head uses every second frequency.
    """
    width, size = attention.embed_dim, attention.head_dim
    half = width // 2
    query, key = torch.zeros(size, width), torch.zeros(size, width)
    for pair, frequency in enumerate(range(head % 2, size, 2)):
        angle = distance * math.exp(-math.log(10000) / (half - 1) * frequency)
        sine, cosine = gain * math.sin(angle), gain * math.cos(angle)
        key[2 * pair, frequency] = key[2 * pair + 1, frequency + half] = gain
        query[2 * pair, frequency], query[2 * pair, frequency + half] = cosine, sine
        query[2 * pair + 1, frequency + half], query[2 * pair + 1, frequency] = cosine, -sine
    rows = slice(head * size, (head + 1) * size)
    attention.q_proj.weight[rows] += query
    attention.k_proj.weight[rows] += key
