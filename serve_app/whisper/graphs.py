"""A function of a shape, recorded once on a CUDA device and replayed: no launch of its kernels waits for Python."""

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

import torch

ShapeT = TypeVar("ShapeT", bound=tuple[int, ...])
ResultT = TypeVar("ResultT")


class Graphs(Generic[ShapeT, ResultT]):
    """`compute(shape)` as CUDA graphs that share their memory.

    All `shapes` are recorded at once, so that no call stalls later. The function must work on tensors that stay
    where they are, and never wait for the device. What it returns is overwritten by the next call.
    """

    def __init__(self, compute: Callable[[ShapeT], ResultT], shapes: Iterable[ShapeT]) -> None:
        self._compute = compute
        self._graphs: dict[ShapeT, tuple[torch.cuda.CUDAGraph, ResultT]] = {}
        self._pool = torch.cuda.graph_pool_handle()
        for shape in sorted(shapes, reverse=True):  # the largest first: the others fit into its memory
            self._capture(shape)

    def _capture(self, shape: ShapeT) -> None:
        # A run before lets libraries choose their kernels and make room.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._compute(shape)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            result = self._compute(shape)
        self._graphs[shape] = graph, result

    def __call__(self, shape: ShapeT) -> ResultT:
        """Replay one of the shapes."""
        graph, result = self._graphs[shape]
        graph.replay()
        return result
