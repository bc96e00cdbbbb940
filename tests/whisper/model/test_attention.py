"""Attention, compared with torch's."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from serve_app.whisper.decoding.kv_slots import CPU_ROWS
from serve_app.whisper.model import attention as module
from serve_app.whisper.model.attention import TILE, attention


@pytest.fixture(params=[True, False], ids=["fused", "tiles"], autouse=True)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both kernels for CPUs, whichever this CPU would use."""
    monkeypatch.setattr(module, "FUSED", request.param)


def random_qkv(rows: int, queries: int, keys: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """Return random query, keys and values in a model's memory layout."""
    generator = torch.Generator().manual_seed(queries)
    query, *others = (
        torch.randn(rows, count, 4, 16, generator=generator).to(dtype).transpose(1, 2)
        for count in (queries, keys, keys)
    )
    return [query / 4, *others]


@pytest.mark.parametrize(("dtype", "off"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("queries", [1, TILE, TILE + 1, 3 * TILE - 5])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_equals_torchs(queries: int, dtype: torch.dtype, off: float, masked: bool) -> None:
    query, keys, values = random_qkv(2, queries, 700, dtype)
    mask = torch.arange(700) <= torch.arange(queries)[:, None] + 3 if masked else None
    mask = None if mask is None else mask[None, None].expand(2, -1, -1, -1)
    expected = scaled_dot_product_attention(query.float(), keys.float(), values.float(), attn_mask=mask, scale=1.0)
    torch.testing.assert_close(attention(query, keys, values, mask).float(), expected, rtol=0, atol=off)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_is_batch_invariant(dtype: torch.dtype) -> None:
    query, keys, values = random_qkv(12, 1, 1500, dtype)
    together = attention(query, keys, values)
    for first in range(0, 12, CPU_ROWS):
        some = slice(first, first + CPU_ROWS)
        assert torch.equal(attention(query[some], keys[some], values[some]), together[some])
