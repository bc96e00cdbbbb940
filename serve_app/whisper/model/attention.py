"""Scaled dot-product attention, by the fastest kernel of each device."""

from collections.abc import Sequence
from importlib.util import find_spec
from itertools import groupby

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

TILE = 256
"""Queries per tile on a CPU. The scores of all 1500 would not stay in a core's cache: measured on whisper-base's
encoder in bfloat16 on AMD, 11 ms a layer in tiles of 256 against 31 ms at once and 27 ms by torch's fused kernel."""

FUSED = bool(torch.cpu.get_capabilities().get("amx_bf16"))
"""Whether torch's fused kernel is used on a CPU: it is faster on those with Intel's AMX. Measured on
whisper-base's encoder in bfloat16, 14 ms a layer against 27 to 55 ms in tiles (float32: 32 against 50), and for one
query of 16 rows 2.6 against 5.2 ms."""

FLASH = find_spec("flash_attn") is not None
"""Whether the extra `flash-attn` is installed. It is used for the encoder only, as it supports no mask."""


def attention(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the attention of `(rows, heads, count, head_dim)` tensors. The query is already scaled.

    `mask`, broadcast to `(rows, heads, queries, keys)`: true where a query attends to a key. On a CPU a row's result is
    bit for bit independent of the other rows.
    """
    if query.device.type == "cuda":
        if FLASH and mask is None and query.shape[2] > 1 and query.dtype != torch.float32:
            from flash_attn import flash_attn_func  # type: ignore[import-not-found]

            output: Tensor = flash_attn_func(*(t.transpose(1, 2) for t in (query, keys, values)), softmax_scale=1.0)
            return output.transpose(1, 2)
        return scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=1.0)
    if FUSED:
        return scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=1.0)
    keys_t = keys.transpose(-1, -2)
    if query.shape[2] <= TILE:
        return _tile(query, keys_t, values, mask)
    # Every tile reads all keys and values: make them contiguous once.
    query, keys_t, values = query.contiguous(), keys.contiguous().transpose(-1, -2), values.contiguous()
    tiles = query.split(TILE, dim=2)
    masks = [None] * len(tiles) if mask is None else mask.expand(-1, -1, query.shape[2], -1).split(TILE, dim=2)
    return torch.cat(
        [_tile(tile, keys_t, values, tile_mask) for tile, tile_mask in zip(tiles, masks, strict=True)], dim=2
    )


def _tile(query: Tensor, keys_t: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    scores = query @ keys_t
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(dim=-1) @ values


Groups = Sequence[tuple[slice, Tensor]]
"""Consecutive entries of the cross-attention cache, each used by n rows, and these rows: `(entries, n)`."""


def group_rows_by_cross_kv(cross_kv_index: Sequence[int], device: torch.device) -> Groups:
    """Group rows by the entry of the cross-attention cache that each row uses."""
    rows_of: dict[int, list[int]] = {}
    for row, entry in enumerate(cross_kv_index):
        rows_of.setdefault(entry, []).append(row)
    groups = []
    # Consecutive entries have the same difference between their rank and their index.
    ranked = enumerate(sorted(rows_of))
    for _, members in groupby(ranked, key=lambda pair: (len(rows_of[pair[1]]), pair[1] - pair[0])):
        entries = [entry for _, entry in members]
        rows = torch.tensor([rows_of[entry] for entry in entries], device=device)
        groups.append((slice(entries[0], entries[-1] + 1), rows))
    return groups


def shared_cross_attention(query: Tensor, keys: Tensor, values: Tensor, groups: Groups) -> Tensor:
    """Return the cross-attention of one token per row, `(rows, heads, 1, head_dim)`, where rows share keys and values.

    Each entry's keys and values are read once for all its rows. Rows in no group get zeros.
    """
    output = torch.zeros_like(query)
    for entries, rows in groups:
        attended = attention(query[rows].squeeze(3).transpose(1, 2), keys[entries], values[entries])
        output[rows] = attended.transpose(1, 2).unsqueeze(3)
    return output
