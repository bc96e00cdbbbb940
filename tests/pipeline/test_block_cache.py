"""Runs that resume from saved blocks."""

import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from serve_app.pipeline.block_cache import BlockCache
from serve_app.schemas.request import TranscriptionOptions
from serve_app.schemas.transcript import Transcript
from serve_app.whisper.protocol import WindowBatch
from serve_app.whisper.window_text import WindowText
from tests.pipeline.helpers import minutes_of_speech, no_text, run, window_text


class MemoryCache:
    """A `BlockCache` in memory."""

    def __init__(self) -> None:
        self.blocks: dict[int, str] = {}

    async def load_blocks(self) -> dict[int, str]:
        return dict(self.blocks)

    async def save_block(self, number: int, content: str) -> None:
        self.blocks[number] = content


@pytest.mark.slow
@pytest.mark.parametrize("conditioned", [True, False])
async def test_resumed_run_transcribes_the_missing_blocks(tmp_path: Path, conditioned: bool) -> None:
    """The text equals that of an uninterrupted run, also if blocks are conditioned on the previous text."""
    transcribed: list[int] = []
    lost_after: int | None = None

    async def transcribe_batch(model: str, batch: WindowBatch) -> Sequence[WindowText]:
        if lost_after is not None and len(transcribed) >= lost_after:
            raise OSError("the replica is gone")
        block = zlib.crc32(batch.pcm.tobytes())
        transcribed.append(block)
        tokens = (block, *(batch.previous_tokens or ())[-1:])
        return [window_text(f"{tokens}", tokens)] * len(batch.windows)

    async def run_again(cache: BlockCache | None = None) -> Transcript:
        options = TranscriptionOptions(condition_on_previous_text=conditioned)
        windows = {"block_s": 20, "blocks_in_flight": 2}
        return await run(tmp_path, minutes_of_speech(2), transcribe_batch, windows, options=options, block_cache=cache)

    whole = await run_again()
    assert whole.segments
    all_blocks, transcribed, lost_after, cache = transcribed, [], 3, MemoryCache()
    assert len(set(all_blocks)) == len(all_blocks) > 4
    with pytest.raises(OSError, match="gone"):
        await run_again(cache)
    cached = {all_blocks[number] for number in cache.blocks}
    assert cached
    transcribed, lost_after = [], None
    resumed = await run_again(cache)
    assert resumed.segments == whole.segments
    assert sorted(transcribed) == sorted(set(all_blocks) - cached)


async def test_blocks_of_another_model_are_not_used(tmp_path: Path) -> None:
    transcribed = 0

    async def transcribe_batch(model: str, batch: WindowBatch) -> Sequence[WindowText]:
        nonlocal transcribed
        transcribed += 1
        return await no_text(model, batch)

    cache = MemoryCache()
    await run(tmp_path, minutes_of_speech(1), transcribe_batch, {"block_s": 20}, block_cache=cache)
    blocks = transcribed
    cache.blocks = {number: text.replace("whisper-nano", "large-v3") for number, text in cache.blocks.items()}
    await run(tmp_path, minutes_of_speech(1), transcribe_batch, {"block_s": 20}, block_cache=cache)
    assert transcribed == 2 * blocks
