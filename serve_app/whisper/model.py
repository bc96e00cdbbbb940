"""Whisper's weights: sound to encoder states, tokens to logits."""

import os
from collections.abc import Sequence
from typing import Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import WhisperForConditionalGeneration, WhisperProcessor
from transformers.models.whisper.modeling_whisper import WhisperAttention

from serve_app.audio import SAMPLE_RATE
from serve_app.settings import WhisperSettings
from serve_app.whisper.card import ModelCard


class Cache:
    """Keys and values of a batch of windows, one row each: `(layers, 2, rows, heads, positions, head_dim)`.

    `decoded` fills as tokens are decoded, each row at its own positions; `encoded` is computed
    once from the encoder states. Only the first `rows` rows are in use.
    """

    def __init__(self, decoded: Tensor, encoded: Tensor) -> None:
        self.rows = decoded.shape[2]
        self._decoded = decoded
        self._encoded = encoded

    def decoded(self, layer: int) -> tuple[Tensor, Tensor]:
        return self._decoded[layer, 0, : self.rows], self._decoded[layer, 1, : self.rows]

    def encoded(self, layer: int) -> tuple[Tensor, Tensor]:
        return self._encoded[layer, 0, : self.rows], self._encoded[layer, 1, : self.rows]

    @torch.inference_mode()
    def keep(self, order: Sequence[int]) -> None:
        """Row i becomes what row `order[i]` was; only rows that move are copied."""
        moved = [row for row, source in enumerate(order) if row != source]
        if moved:
            sources = [order[row] for row in moved]
            self._decoded[:, :, moved] = self._decoded[:, :, sources]
            self._encoded[:, :, moved] = self._encoded[:, :, sources]
        self.rows = len(order)


class WhisperModel:
    """A checkpoint on a device.

    The encoder is transformers' own. The decoder's layers are walked here with explicit
    keys and values, because the library's caches hold one position for a whole batch, and
    rows of different prefixes stand at different ones.
    """

    def __init__(self, card: ModelCard, network: WhisperForConditionalGeneration, processor: WhisperProcessor) -> None:
        self.card = card
        self.positions: int = network.config.max_target_positions
        self.vocabulary: int = network.config.vocab_size
        self.device: torch.device = network.device
        self._network = network
        self._decoder = network.model.decoder
        self._extract = processor.feature_extractor
        self._tokenizer = processor.tokenizer

    @classmethod
    def load(cls, name: str, settings: WhisperSettings) -> Self:
        """Load an embedded model, a folder or a hub id. Raises what `ModelCard.load` raises."""
        card = ModelCard.load(name)
        # Ray sets OMP_NUM_THREADS from an actor's num_cpus, one for any share of a core: say it ourselves.
        torch.set_num_threads(settings.threads or len(os.sched_getaffinity(0)))
        device = settings.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = settings.dtype
        if dtype == "auto":
            dtype = "float16" if device == "cuda" else "float32"
        network = WhisperForConditionalGeneration.from_pretrained(card.source, dtype=getattr(torch, dtype))
        network.to(torch.device(device))  # type: ignore[arg-type]  # its signature is lost in a decorator
        return cls(card, network, WhisperProcessor.from_pretrained(card.source))

    def prompt(self, text: str) -> tuple[int, ...]:
        """The tokens that condition a window on a text; what looks like a special token is text too."""
        if not text.strip():
            return ()
        ids = self._tokenizer(f" {text.strip()}", add_special_tokens=False, split_special_tokens=True).input_ids
        return self.card.tokens.prompt(ids, self.positions)

    def text(self, tokens: Sequence[int]) -> str:
        """The text of text tokens."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))

    @torch.inference_mode()
    def features(self, windows: Sequence[NDArray[np.int16]]) -> Tensor:
        """Log-mel features of 16 kHz windows of at most 30 s: `(windows, mels, frames)`, padded with silence."""
        sound = [window.astype(np.float32) / 32768 for window in windows]
        features = self._extract(sound, sampling_rate=SAMPLE_RATE, return_tensors="pt", device=self.device.type)
        return cast(Tensor, features.input_features).to(self.device, self._network.dtype)

    @torch.inference_mode()
    def encode(self, features: Tensor) -> Tensor:
        """Encoder states `(windows, positions, width)` of features."""
        return cast(Tensor, self._network.model.encoder(features).last_hidden_state)

    def synchronize(self) -> None:
        """Wait until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @torch.inference_mode()
    def cache(self, states: Tensor) -> Cache:
        """An empty cache over the encoder states of a batch."""
        layers = self._decoder.layers
        heads = (layers[0].encoder_attn.num_heads, states.shape[1], layers[0].encoder_attn.head_dim)
        encoded = states.new_empty(len(layers), 2, len(states), *heads)
        for layer, (keys, values) in zip(layers, encoded, strict=True):
            attention = layer.encoder_attn
            keys.copy_(_split(attention.k_proj(states), attention).transpose(1, 2))
            values.copy_(_split(attention.v_proj(states), attention).transpose(1, 2))
        # Zeros: attention weighs the places not yet filled with nought, and nought times rubbish may be NaN.
        decoded = states.new_zeros(*encoded.shape[:4], self.positions, encoded.shape[-1])
        return Cache(decoded, encoded)

    @torch.inference_mode()
    def step(self, cache: Cache, tokens: Tensor, positions: Tensor, length: int) -> Tensor:
        """Decode tokens at their positions, both `(rows, count)`: hidden states `(rows, count, width)`.

        A token sees its row's cached tokens up to its own position. `length` is one more than
        the highest position, known without asking the device.
        """
        hidden = self._decoder.embed_tokens(tokens) + self._decoder.embed_positions.weight[positions]
        rows = torch.arange(cache.rows, device=self.device)[:, None]
        seen = (torch.arange(length, device=self.device) <= positions[..., None])[:, None]
        for index, layer in enumerate(self._decoder.layers):
            attention = layer.self_attn
            normed = layer.self_attn_layer_norm(hidden)
            keys, values = cache.decoded(index)
            keys[rows, :, positions] = _split(attention.k_proj(normed), attention)
            values[rows, :, positions] = _split(attention.v_proj(normed), attention)
            hidden = hidden + _attend(attention, normed, keys[:, :, :length], values[:, :, :length], seen)
            normed = layer.encoder_attn_layer_norm(hidden)
            hidden = hidden + _attend(layer.encoder_attn, normed, *cache.encoded(index))
            normed = layer.final_layer_norm(hidden)
            hidden = hidden + layer.fc2(layer.activation_fn(layer.fc1(normed)))
        return cast(Tensor, self._decoder.layer_norm(hidden))

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """Logits over the vocabulary, in float32, of hidden states."""
        return cast(Tensor, self._network.proj_out(hidden)).float()


def _split(projected: Tensor, attention: WhisperAttention) -> Tensor:
    """`(rows, count, width)` to `(rows, count, heads, head_dim)`."""
    return projected.view(*projected.shape[:-1], attention.num_heads, attention.head_dim)


def _attend(
    attention: WhisperAttention, hidden: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None
) -> Tensor:
    # The query is scaled before the product, in transformers' order, so that half precision rounds alike.
    query = _split(attention.q_proj(hidden) * attention.scaling, attention).transpose(1, 2)
    mixed = scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=1.0)
    return cast(Tensor, attention.out_proj(mixed.transpose(1, 2).flatten(-2)))
