"""One engine in a process of its own, driven over pipes: engines share neither thread pools nor memory.

    python -m benchmarks.worker ct2-int8 serve_app/models/whisper-nano 2

reads requests as lines of JSON from standard input, and writes responses to standard output.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from benchmarks.baselines import (
    ChunkedPipeline,
    CTranslate2,
    FasterWhisper,
    FasterWhisperBatched,
    OpenAIWhisper,
    SequentialPipeline,
)
from benchmarks.engines import RunConfig, Transcribe, WhisperServe
from benchmarks.json_subprocess import JsonSubprocess, redirect_stdout
from benchmarks.workloads import Workload
from serve_app.cores import SPIN_COUNT


@dataclass(frozen=True)
class EngineSpec:
    """An engine's loader, its label in tables, and whether it is too slow for the whole workload."""

    label: str
    load: Callable[[Path, int], Transcribe]
    slow: bool = False
    batch_size: int = 16


ENGINES = {
    "ours": EngineSpec("this project, bfloat16 where the CPU has it", WhisperServe),
    "ct2": EngineSpec("CTranslate2 alone, float32", partial(CTranslate2, precision="float32")),
    "ct2-int8": EngineSpec("CTranslate2 alone, int8", partial(CTranslate2, precision="int8")),
    "faster-batched": EngineSpec("faster-whisper batched, float32", partial(FasterWhisperBatched, precision="float32")),
    "faster-batched-int8": EngineSpec("faster-whisper batched, int8", partial(FasterWhisperBatched, precision="int8")),
    "faster": EngineSpec("faster-whisper, float32", partial(FasterWhisper, precision="float32"), True, 1),
    "faster-int8": EngineSpec("faster-whisper, int8", partial(FasterWhisper, precision="int8"), True, 1),
    "openai": EngineSpec("openai-whisper, float32", OpenAIWhisper, True, 1),
    "pipeline": EngineSpec("transformers pipeline, chunked, float32", ChunkedPipeline, batch_size=24),
    "tutorial": EngineSpec("transformers pipeline, 30 s at a time, float32", SequentialPipeline, True, 1),
}


@dataclass(frozen=True)
class PassResult:
    """One pass over a workload: wall seconds from samples to text, tokens of each window, the whole text."""

    seconds: float
    tokens: tuple[int, ...]
    text: str


class Worker:
    """The parent's end of an engine's process. Raises RuntimeError, with the end of its log, when it dies."""

    def __init__(self, engine: str, checkpoint: Path, threads: int, log: Path) -> None:
        environment = {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        if engine == "ours":  # as in its replicas
            environment["GOMP_SPINCOUNT"] = str(SPIN_COUNT)
        command = ("benchmarks.worker", engine, str(checkpoint), str(threads))
        self._process = JsonSubprocess(engine, command, log, environment)

    def run(self, workload: Path, windows: int | None = None, config: RunConfig | None = None) -> PassResult:
        """Run one pass over a saved workload, or over its first windows."""
        fields = self._process.ask(
            {"workload": str(workload), "windows": windows, "config": asdict(config or RunConfig())}
        )
        return PassResult(fields["seconds"], tuple(fields["tokens"]), fields["text"])

    def close(self) -> None:
        """End the process."""
        self._process.close()


def serve(transcribe: Transcribe) -> None:
    """Answer requests until the input ends."""
    with redirect_stdout() as answers:
        for line in sys.stdin:
            request = json.loads(line)
            workload = Workload.load(Path(request["workload"])).first(request["windows"])
            start = time.perf_counter()
            results = transcribe(workload, RunConfig(**request["config"]))
            seconds = time.perf_counter() - start
            run = PassResult(
                seconds, tuple(window.tokens for window in results), " ".join(window.text for window in results)
            )
            print(json.dumps(asdict(run)), file=answers, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("threads", type=int)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    serve(ENGINES[arguments.engine].load(arguments.checkpoint, arguments.threads))


if __name__ == "__main__":
    main()
