"""Whisper's forward passes: features, encoder states, decoder steps, logits, and alignment."""

from collections.abc import Sequence
from typing import Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.functional import gelu, linear

from serve_app.cores import count_cores
from serve_app.settings import WhisperSettings
from serve_app.whisper.model.attention import attention, group_rows_by_cross_kv, shared_cross_attention
from serve_app.whisper.model.card import ModelCard
from serve_app.whisper.model.checkpoint import read_json, read_tokenizer, read_weights
from serve_app.whisper.model.features import FRAMES_PER_STATE, LogMel
from serve_app.whisper.model.malloc import retain_freed_memory
from serve_app.whisper.model.network import Attention, Network
from serve_app.whisper.model.reproducible import enable_reproducible_matmul

FP16_LIMIT = torch.finfo(torch.float16).max - 1000
"""The limit that float16 encoder states are clamped to against overflow, as in transformers."""

_PRINTABLE_BYTES = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]

BYTE_DECODER = {chr(byte): byte for byte in _PRINTABLE_BYTES}
BYTE_DECODER |= {chr(256 + index): byte for index, byte in enumerate(sorted({*range(256)} - {*_PRINTABLE_BYTES}))}
"""The byte that each character of a byte-level BPE vocabulary stands for: its own code point if that is printable, else
the next one from 256 (openai/gpt-2, `bytes_to_unicode`)."""


class WhisperModel:
    """A checkpoint on a device.

    The forward passes are implemented here, as transformers' caches have one position for the whole batch, while rows
    with different prefixes are at different positions.
    """

    def __init__(
        self, card: ModelCard, network: Network, tokenizer: Tokenizer, device: torch.device, threads: int = 1
    ) -> None:
        self.card = card
        self.threads = threads
        """Number of torch threads to be set by the engine's thread."""
        self.positions = card.positions
        self.vocabulary = card.vocabulary
        self.device = device
        self._encoder, self._decoder = network.encoder.to(device), network.decoder.to(device)
        self._embeddings = self._decoder.embed_tokens.weight
        self.dtype = self._embeddings.dtype
        self.audio_positions = self._encoder.embed_positions.num_embeddings
        """Number of encoder states of a window."""
        self._log_mel = LogMel(self._encoder.conv1.in_channels, FRAMES_PER_STATE * self.audio_positions, device)
        self._tokenizer = tokenizer
        # Special tokens that are written out in a text are encoded as text.
        self._tokenizer.encode_special_tokens = True

    @classmethod
    def load(cls, name: str, settings: WhisperSettings) -> Self:
        """Load an embedded model, a folder or a hub id. Raises what `ModelCard.load` raises."""
        card = ModelCard.load(name)
        # Set explicitly: Ray derives OMP_NUM_THREADS from an actor's num_cpus, which is 1 for any fraction of a core.
        threads = settings.threads or count_cores()
        # One thread here: OpenMP creates a team of threads for each thread that uses it, and only the engine's thread
        # should have one.
        torch.set_num_threads(1)
        device = settings.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = settings.dtype
        if dtype == "auto":
            dtype = "float16" if device == "cuda" else "bfloat16" if bfloat16_is_fast() else "float32"
        if device == "cpu":
            retain_freed_memory()
            enable_reproducible_matmul()
        network = Network.from_weights(
            read_json(card.source, "config.json"), read_weights(card.source), getattr(torch, dtype)
        )
        return cls(card, network, read_tokenizer(card.source), torch.device(device), threads)

    def tokenize(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a prompt. Special tokens that are written out in it are encoded as text."""
        if not text.strip():
            return ()
        return tuple(self._tokenizer.encode(f" {text.strip()}", add_special_tokens=False).ids)

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Return the text of text tokens."""
        return str(self._tokenizer.decode(list(tokens)))

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes of a text token, which may be part of a character."""
        piece = str(self._tokenizer.id_to_token(token))
        is_byte_level = all(character in BYTE_DECODER for character in piece)
        return bytes(BYTE_DECODER[character] for character in piece) if is_byte_level else piece.encode()

    @torch.inference_mode()
    def features(self, windows: Sequence[NDArray[np.int16]]) -> Tensor:
        """Return the log-mel features of 16 kHz windows of at most 30 s: `(windows, mels, frames)`, zero-padded."""
        return self._log_mel(windows).to(self.dtype)

    @torch.inference_mode()
    def encode(self, features: Tensor) -> Tensor:
        """Return the encoder states `(windows, positions, width)` of features."""
        if self.device.type == "cuda":
            return self._encode(features)
        # One window at a time: batch-invariant, and as fast, since a core's cache fits one window's states at most.
        return torch.cat([self._encode(window) for window in features.split(1)])

    def _encode(self, features: Tensor) -> Tensor:
        encoder = self._encoder
        hidden = gelu(encoder.conv2(gelu(encoder.conv1(features)))).transpose(1, 2)
        # Sums keep the memory layout of their operands, and the layers need contiguous positions.
        hidden = hidden.contiguous() + encoder.embed_positions.weight
        for layer in encoder.layers:
            normed = layer.self_attn_layer_norm(hidden)
            keys, values = _keys_values(layer.self_attn, normed)
            hidden = hidden + _attend(layer.self_attn, normed, keys, values)
            normed = layer.final_layer_norm(hidden)
            hidden = hidden + layer.fc2(gelu(layer.fc1(normed)))
            if hidden.dtype == torch.float16:
                hidden = hidden.clamp(-FP16_LIMIT, FP16_LIMIT)
        return cast(Tensor, encoder.layer_norm(hidden))

    def synchronize(self) -> None:
        """Wait until the device has finished all queued work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def new_kv_cache(self, rows: int, positions: int) -> Tensor:
        """Return an empty KV cache: zeros `(layers, 2, rows, heads, positions, head_width)`.

        Zeroed because attention multiplies unused positions by zero, and zero times uninitialized memory may be NaN.
        """
        layers = self._decoder.layers
        shape = (len(layers), 2, rows, layers[0].self_attn.heads, positions, layers[0].self_attn.head_width)
        return torch.zeros(shape, dtype=self.dtype, device=self.device)

    @torch.inference_mode()
    def write_cross_kv(self, states: Tensor, out: Tensor) -> None:
        """Write the cross-attention keys and values of encoder states to `out`, a view of a KV cache."""
        for layer, (keys, values) in zip(self._decoder.layers, out, strict=True):
            for target, source in zip((keys, values), _keys_values(layer.encoder_attn, states), strict=True):
                target.copy_(source)

    @torch.inference_mode()
    def decode_step(
        self,
        self_kv: Tensor,
        cross_kv: Tensor,
        tokens: Tensor,
        positions: Tensor,
        length: int,
        cross_kv_index: Sequence[int] | None = None,
    ) -> Tensor:
        """Decode tokens at their positions, both `(rows, count)`. Return the hidden states `(rows, count, width)`.

        `self_kv`, `cross_kv`: the caches; the tokens' keys and values are written to `self_kv`. A token attends to its
        row's tokens up to its own position. `length`: the number of positions of `self_kv` that are read, more than the
        highest position. `cross_kv_index`: the index in `cross_kv` for each of the first rows, with one token per row;
        the other rows get no cross-attention. Null: each row has its own, in order.
        """
        groups = None if cross_kv_index is None else group_rows_by_cross_kv(cross_kv_index, self.device)
        hidden = self._embed(tokens, positions)
        rows = torch.arange(len(tokens), device=self.device)[:, None]
        mask = (torch.arange(length, device=self.device) <= positions[..., None])[:, None]
        for layer, self_cache, cross_cache in zip(self._decoder.layers, self_kv, cross_kv, strict=True):
            normed = layer.self_attn_layer_norm(hidden)
            keys, values = self_cache
            keys[rows, :, positions] = _split_heads(layer.self_attn.k_proj(normed), layer.self_attn)
            values[rows, :, positions] = _split_heads(layer.self_attn.v_proj(normed), layer.self_attn)
            hidden = hidden + _attend(layer.self_attn, normed, keys[:, :, :length], values[:, :, :length], mask)
            normed = layer.encoder_attn_layer_norm(hidden)
            if groups is None:
                hidden = hidden + _attend(layer.encoder_attn, normed, *cross_cache)
            else:
                query, (cross_keys, cross_values) = _query(layer.encoder_attn, normed), cross_cache
                output = shared_cross_attention(query, cross_keys, cross_values, groups)
                hidden = hidden + _project_out(layer.encoder_attn, output)
            normed = layer.final_layer_norm(hidden)
            hidden = hidden + layer.fc2(gelu(layer.fc1(normed)))
        return cast(Tensor, self._decoder.layer_norm(hidden))

    @torch.inference_mode()
    def alignment_weights(self, states: Tensor, tokens: Tensor) -> Tensor:
        """Return the cross-attention weights of the checkpoint's alignment heads for tokens `(rows, count)`.

        float32 `(rows, heads, count, positions)`. Layers above the last alignment head are not run.
        """
        heads = self.card.alignment_heads
        attention_weights: dict[tuple[int, int], Tensor] = {}
        hidden = self._embed(tokens, torch.arange(tokens.shape[1], device=self.device).expand(len(tokens), -1))
        indices = torch.arange(tokens.shape[1], device=self.device)
        mask = (indices <= indices[:, None])[None, None]
        for index, layer in enumerate(self._decoder.layers[: max(layer for layer, _ in heads) + 1]):
            normed = layer.self_attn_layer_norm(hidden)
            hidden = hidden + _attend(layer.self_attn, normed, *_keys_values(layer.self_attn, normed), mask)
            normed = layer.encoder_attn_layer_norm(hidden)
            keys, values = _keys_values(layer.encoder_attn, states)
            query = _query(layer.encoder_attn, normed)
            for head in (head for head_layer, head in heads if head_layer == index):
                attention_weights[index, head] = (
                    (query[:, head] @ keys[:, head].transpose(-1, -2)).float().softmax(dim=-1)
                )
            hidden = hidden + _project_out(layer.encoder_attn, attention(query, keys, values))
            normed = layer.final_layer_norm(hidden)
            hidden = hidden + layer.fc2(gelu(layer.fc1(normed)))
        return torch.stack([attention_weights[head] for head in heads], dim=1)

    def _embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        return cast(Tensor, self._decoder.embed_tokens(tokens) + self._decoder.embed_positions.weight[positions])

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits of hidden states over the vocabulary, in float32."""
        return linear(hidden, self._embeddings).float()


def bfloat16_is_fast() -> bool:
    """Return whether this CPU has bfloat16 matrix instructions: measured 3 to 4 times as fast as float32."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _split_heads(projected: Tensor, layer: Attention) -> Tensor:
    """Split `(rows, count, width)` into heads: `(rows, count, heads, head_width)`."""
    return projected.view(*projected.shape[:-1], layer.heads, layer.head_width)


def _query(layer: Attention, hidden: Tensor) -> Tensor:
    # Scaled before the product, in the same order as transformers, so that half precision rounds the same.
    return _split_heads(layer.q_proj(hidden) * layer.scaling, layer).transpose(1, 2)


def _keys_values(layer: Attention, hidden: Tensor) -> tuple[Tensor, Tensor]:
    return (
        _split_heads(layer.k_proj(hidden), layer).transpose(1, 2),
        _split_heads(layer.v_proj(hidden), layer).transpose(1, 2),
    )


def _project_out(layer: Attention, output: Tensor) -> Tensor:
    return cast(Tensor, layer.out_proj(output.transpose(1, 2).flatten(-2)))


def _attend(layer: Attention, hidden: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    return _project_out(layer, attention(_query(layer, hidden), keys, values, mask))
