import asyncio
from collections.abc import Callable

import pytest

from serve_app.pipeline.streaming import stream_results

Tell = Callable[[str], None]


async def test_what_is_told_comes_at_once_and_the_result_last() -> None:
    go_on = asyncio.Event()

    async def work(tell: Tell) -> int:
        tell("a")
        await go_on.wait()
        tell("b")
        return 3

    told = stream_results(work)
    assert await anext(told) == "a"
    go_on.set()
    assert [item async for item in told] == ["b", 3]


async def test_what_fails_has_told_before() -> None:
    async def work(tell: Tell) -> int:
        tell("a")
        raise OSError("on fire")

    told = stream_results(work)
    assert await anext(told) == "a"
    with pytest.raises(OSError, match="on fire"):
        await anext(told)


@pytest.mark.parametrize("closed", [True, False])
async def test_nobody_listens_and_the_work_is_cancelled(closed: bool) -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def work(tell: Tell) -> int:
        try:
            tell("a")
            begun.set()
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return 3

    told = stream_results(work)
    assert await anext(told) == "a"
    if closed:
        await told.aclose()
    else:
        listener = asyncio.ensure_future(anext(told))
        await begun.wait()
        listener.cancel()
    await asyncio.wait_for(cancelled.wait(), 5)
