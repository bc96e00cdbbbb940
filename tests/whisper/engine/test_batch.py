"""Blocks of windows through a real engine, watched at its door."""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from serve_app.audio.windows import Window
from serve_app.schemas.request import TranscriptionOptions
from serve_app.whisper.engine.batch import transcribe_windows
from serve_app.whisper.engine.engine import Engine
from serve_app.whisper.window_text import WindowText, next_prompt_tokens

Windows = dict[str, NDArray[np.int16]]
TEXTS = ["three one four one five nine", "zwei sieben eins acht zwei acht"]


@pytest.fixture
def told(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """What each window that is submitted was told."""
    seen: list[tuple[int, ...]] = []
    submit = engine.submit

    def watched(*args: Any, previous: Sequence[int], **more: Any) -> Any:
        seen.append(tuple(previous))
        return submit(*args, previous=previous, **more)

    monkeypatch.setattr(engine, "submit", watched)
    return seen


async def run(
    engine: Engine, windows: Windows, previous: tuple[int, ...] | None, **options: Any
) -> Sequence[WindowText]:
    pcm = np.concatenate([windows["en.mp3"], windows["de.opus"]])
    first = len(windows["en.mp3"])
    return await transcribe_windows(
        *(engine, pcm, [Window(0, first), Window(first, len(pcm))], TranscriptionOptions(**options), "job"),
        interactive=True,
        previous=previous,
    )


async def test_windows_know_nothing_of_each_other(engine: Engine, windows: Windows, told: list[Any]) -> None:
    texts = await run(engine, windows, None)
    assert [text.text for text in texts] == TEXTS
    assert told == [(), ()]


async def test_the_initial_prompt_is_before_the_first_window_of_all(
    engine: Engine, windows: Windows, told: list[Any]
) -> None:
    await run(engine, windows, None, initial_prompt="one two")
    await run(engine, windows, (), initial_prompt="one two")
    assert told == [engine.tokenize("one two"), (), (), ()]


async def test_each_window_is_told_the_one_before(engine: Engine, windows: Windows, told: list[Any]) -> None:
    texts = await run(engine, windows, (331, 339), condition_on_previous_text=True)
    assert told == [(331, 339), (331, 339, *texts[0].tokens)]


async def test_cancelling_gives_all_windows_up(engine: Engine, windows: Windows) -> None:
    task = asyncio.create_task(run(engine, windows, None))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0.5)
    assert not engine._requests


def test_hot_text_is_not_handed_on() -> None:
    text = WindowText(
        language="en", text="", segments=(), tokens=(7,), avg_logprob=0, no_speech_prob=0, compression_ratio=0
    )
    assert next_prompt_tokens((1, 2), text) == (1, 2, 7)
    assert next_prompt_tokens((1, 2), text.model_copy(update={"temperature": 0.6})) == ()
    assert len(next_prompt_tokens(range(500), text)) == 224
