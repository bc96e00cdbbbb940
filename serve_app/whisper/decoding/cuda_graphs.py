"""CUDA graphs of a function of a shape: captured once, then replayed without launching each kernel from Python."""

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch

ShapeT = TypeVar("ShapeT", bound=tuple[int, ...])
ResultT = TypeVar("ResultT")


class CudaGraphs(Generic[ShapeT, ResultT]):
    """`compute(shape)` as CUDA graphs that share their memory.

    All `shapes` are captured at once, so that no later call stalls. The function must work on tensors that are never
    reallocated, and must not synchronize with the device. Its result is overwritten by the next call.
    """

    def __init__(self, compute: Callable[[ShapeT], ResultT], shapes: Iterable[ShapeT]) -> None:
        # No reference to `compute` is kept: it would form a cycle with its owner and delay the release of its memory.
        self._graphs: dict[ShapeT, tuple[torch.cuda.CUDAGraph, ResultT]] = {}
        self._pool = torch.cuda.graph_pool_handle()
        # One stream, as libraries allocate a workspace per stream. Its priority is high: a step is many small kernels,
        # each of which would otherwise queue behind the encoder's.
        self._stream = torch.cuda.Stream(priority=-1)
        with _nothing_collected():
            for shape in sorted(shapes, reverse=True):  # the largest first: the others reuse its memory
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
        """Replay one of the shapes."""
        graph, result = self._graphs[shape]
        graph.replay()
        return result


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """Disable garbage collection: freeing an older graph would break the capture of a new one."""
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
