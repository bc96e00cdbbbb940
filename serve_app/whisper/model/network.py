"""Whisper's layers with the parameter names of transformers. `whisper_model.py` runs them."""

from collections.abc import Mapping, Sequence
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from serve_app.whisper.model.tokens import CheckpointError


class Attention(nn.Module):
    """The projections of an attention layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_width = heads, width // heads
        self.scaling = self.head_width**-0.5
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)


class Layer(nn.Module):
    """A layer of the encoder, or of the decoder, which has cross-attention."""

    def __init__(self, width: int, heads: int, inner: int, cross_attention: bool) -> None:
        super().__init__()
        self.self_attn, self.self_attn_layer_norm = Attention(width, heads), nn.LayerNorm(width)
        if cross_attention:
            self.encoder_attn, self.encoder_attn_layer_norm = Attention(width, heads), nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)
        self.final_layer_norm = nn.LayerNorm(width)


def _layers(config: Mapping[str, Any], part: str) -> Sequence[Layer]:
    width, heads, inner = config["d_model"], config[f"{part}_attention_heads"], config[f"{part}_ffn_dim"]
    layers = nn.ModuleList(
        Layer(width, heads, inner, cross_attention=part == "decoder") for _ in range(config[f"{part}_layers"])
    )
    return cast(Sequence[Layer], layers)


def _embedding(rows: int, width: int) -> nn.Embedding:
    # The constructor of nn.Embedding draws random numbers, for which torch imports its compiler in most of a second.
    return cast(nn.Embedding, nn.Embedding.from_pretrained(torch.empty(rows, width)))


class Encoder(nn.Module):
    """The encoder: log-mel frames to encoder states, one per two frames."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        width = config["d_model"]
        self.conv1 = nn.Conv1d(config["num_mel_bins"], width, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(width, width, kernel_size=3, stride=2, padding=1)
        self.embed_positions = _embedding(config["max_source_positions"], width)
        self.layers = _layers(config, "encoder")
        self.layer_norm = nn.LayerNorm(width)


class Decoder(nn.Module):
    """The decoder: tokens to hidden states. The token embeddings are also the output projection."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        width = config["d_model"]
        self.embed_tokens = _embedding(config["vocab_size"], width)
        self.embed_positions = _embedding(config["max_target_positions"], width)
        self.layers = _layers(config, "decoder")
        self.layer_norm = nn.LayerNorm(width)


class Network(nn.Module):
    """Encoder and decoder of a checkpoint."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(config), Decoder(config)

    @classmethod
    def from_weights(cls, config: Mapping[str, Any], weights: Mapping[str, Tensor], dtype: torch.dtype) -> Self:
        """Make the network of a checkpoint. Raises CheckpointError if the tensors do not match its `config.json`."""
        if config.get("activation_function", "gelu") != "gelu" or config.get("scale_embedding"):
            raise CheckpointError("config.json: activation_function must be gelu, and scale_embedding false")
        with torch.device("meta"):
            network = cls(config)
        state_dict = {
            name.removeprefix("model."): tensor.to(dtype)
            for name, tensor in weights.items()
            if name != "proj_out.weight"  # the same tensor as the decoder's embed_tokens
        }
        try:
            network.load_state_dict(state_dict, assign=True)
        except RuntimeError as error:
            raise CheckpointError(f"the checkpoint's weights do not match its config.json: {error}") from error
        return network.eval().requires_grad_(False)
