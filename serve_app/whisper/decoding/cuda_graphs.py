"""CUDA graphs: a function is captured once per shape, then replayed without launching each kernel from Python."""

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch

ShapeT = TypeVar("ShapeT", bound=tuple[int, ...])
ResultT = TypeVar("ResultT")


class CudaGraphs(Generic[ShapeT, ResultT]):
    """Captures `compute(shape)` as a CUDA graph for each shape. The graphs share their memory.

    All `shapes` are captured at once, so that no later call stalls. The function must use tensors that are never
    reallocated, and must not synchronize with the device. Its result is overwritten by the next call.
    """

    def __init__(self, compute: Callable[[ShapeT], ResultT], shapes: Iterable[ShapeT]) -> None:
        # `compute` is not stored: a reference cycle with its owner would delay the release of its memory.
        self._graphs: dict[ShapeT, tuple[torch.cuda.CUDAGraph, ResultT]] = {}
        self._pool = torch.cuda.graph_pool_handle()
        # A single stream, as libraries allocate a workspace per stream. Its priority is high: a step is many small
        # kernels, each of which would otherwise queue behind the encoder's.
        self._stream = torch.cuda.Stream(priority=-1)
        with _garbage_collection_disabled():
            for shape in sorted(shapes, reverse=True):  # the largest first, so that the others reuse its memory
                self._graphs[shape] = self._capture(compute, shape)

    def _capture(self, compute: Callable[[ShapeT], ResultT], shape: ShapeT) -> tuple[torch.cuda.CUDAGraph, ResultT]:
        # A warm-up run lets libraries select kernels and allocate workspaces.
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            compute(shape)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            result = compute(shape)
        torch.cuda.current_stream().wait_stream(self._stream)
        return graph, result

    def __call__(self, shape: ShapeT) -> ResultT:
        """Replay the graph of a shape."""
        graph, result = self._graphs[shape]
        graph.replay()
        return result


@contextmanager
def _garbage_collection_disabled() -> Iterator[None]:
    """Disable garbage collection: freeing an older graph would break the capture of a new one."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
