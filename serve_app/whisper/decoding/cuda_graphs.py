"""A function of a shape, recorded once on a CUDA device and replayed: no launch of its kernels waits for Python."""

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch

ShapeT = TypeVar("ShapeT", bound=tuple[int, ...])
ResultT = TypeVar("ResultT")


class CudaGraphs(Generic[ShapeT, ResultT]):
    """`compute(shape)` as CUDA graphs that share their memory.

    All `shapes` are recorded at once, so that no call stalls later. The function must work on tensors that stay
    where they are, and never wait for the device. What it returns is overwritten by the next call.
    """

    def __init__(self, compute: Callable[[ShapeT], ResultT], shapes: Iterable[ShapeT]) -> None:
        # `compute` itself is not kept: with its owner it would make a cycle, and its memory stay until it is collected.
        self._graphs: dict[ShapeT, tuple[torch.cuda.CUDAGraph, ResultT]] = {}
        self._pool = torch.cuda.graph_pool_handle()
        # One stream, as libraries keep workspace for each. Its priority is the graphs' own: a step is many small
        # kernels, each of which would wait for a wave of the encoder's.
        self._stream = torch.cuda.Stream(priority=-1)
        with _nothing_collected():
            for shape in sorted(shapes, reverse=True):  # the largest first: the others fit into its memory
                self._graphs[shape] = self._capture(compute, shape)

    def _capture(self, compute: Callable[[ShapeT], ResultT], shape: ShapeT) -> tuple[torch.cuda.CUDAGraph, ResultT]:
        # A run before lets libraries choose their kernels and make room.
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
    """An older graph that the collector throws away meanwhile would break the recording of a new one."""
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
