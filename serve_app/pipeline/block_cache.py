"""The texts of finished blocks, saved for a run of the same job that has to begin again."""

from collections.abc import Mapping, Sequence
from typing import Protocol, Self

from serve_app.audio.windows import Window
from serve_app.schemas.request import StrictModel
from serve_app.whisper.window_text import WindowText


class BlockCache(Protocol):
    """Saves the texts of one job's blocks, as opaque strings."""

    async def load_blocks(self) -> Mapping[int, str]:
        """Return the blocks that earlier runs saved, by their numbers."""

    async def save_block(self, number: int, content: str) -> None:
        """Save a block. An exception ends the run."""


class _CachedBlock(StrictModel):
    """A block's texts with its model and windows: cuts may differ between machines, and models between runs."""

    model: str
    windows: tuple[Window, ...]
    texts: tuple[WindowText, ...]


class CachedBlocks:
    """The cached blocks of a recording that is transcribed by one model."""

    def __init__(self, cache: BlockCache | None, checkpoint: str, blocks: Mapping[int, str]) -> None:
        self._cache = cache
        self._checkpoint = checkpoint
        self._blocks = blocks

    @classmethod
    async def load(cls, cache: BlockCache | None, checkpoint: str) -> Self:
        """Load the blocks that earlier runs saved. Without a cache there are none, and none is saved."""
        return cls(cache, checkpoint, await cache.load_blocks() if cache else {})

    def find(self, number: int, windows: tuple[Window, ...]) -> Sequence[WindowText] | None:
        """Return the texts of a block, null unless they were saved for the same windows and model."""
        if number not in self._blocks:
            return None
        block = _CachedBlock.model_validate_json(self._blocks[number])
        return block.texts if (block.model, block.windows) == (self._checkpoint, windows) else None

    async def save(self, number: int, windows: tuple[Window, ...], texts: Sequence[WindowText]) -> None:
        """Save the texts of a block, unless there already is one of that number."""
        if self._cache and number not in self._blocks:
            block = _CachedBlock(model=self._checkpoint, windows=windows, texts=tuple(texts))
            await self._cache.save_block(number, block.model_dump_json())
