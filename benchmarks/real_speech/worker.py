"""One engine in a process of its own, which transcribes files on request over pipes.

python -m benchmarks.real_speech.worker faster data/models/whisper-base 2
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.json_subprocess import JsonSubprocess, redirect_stdout
from benchmarks.real_speech import baselines, whisper_serve
from benchmarks.real_speech.transcript import EngineTranscript

OpenEngine = Callable[[Path, int], AbstractAsyncContextManager[whisper_serve.Transcribe]]


@dataclass(frozen=True)
class EngineSpec:
    """The label of an engine in tables, how to open it, and its environment."""

    label: str
    open: OpenEngine
    environment: Mapping[str, str] = field(default_factory=dict)


def _variants(
    name: str, label: str, open_engine: Callable[..., AbstractAsyncContextManager[whisper_serve.Transcribe]]
) -> dict[str, EngineSpec]:
    """Return the specs of our engine with default and other options."""

    def engine(variant: str, options: whisper_serve.Options, **environment: str) -> EngineSpec:
        return EngineSpec(f"{label}, {variant}", partial(open_engine, options=options), environment)

    return {
        name: engine("defaults", {}),
        f"{name}-greedy": engine("greedy", {"beam_size": 1}),
        f"{name}-beam5": engine("beam 5", {"beam_size": 5}),
        f"{name}-none": engine("no timestamps", {"timestamps": "none"}),
        f"{name}-float32": engine("float32", {}, STT_WHISPER__DTYPE="float32"),
        f"{name}-bfloat16": engine("bfloat16", {}, STT_WHISPER__DTYPE="bfloat16"),
    }


def _baseline(label: str, load: baselines.LoadModel) -> EngineSpec:
    return EngineSpec(label, partial(baselines.run_in_thread, load))


ENGINES = {
    **_variants("ours", "this service over HTTP", whisper_serve.over_http),
    **_variants("ours-engine", "this service in one process", whisper_serve.in_process),
    "openai": _baseline("openai-whisper, its command's defaults", baselines.openai),
    "faster": _baseline("faster-whisper, float32", partial(baselines.faster, precision="float32")),
    "faster-int8": _baseline("faster-whisper, int8", partial(baselines.faster, precision="int8")),
    "batched": _baseline("faster-whisper batched, float32", partial(baselines.batched, precision="float32")),
    "batched-int8": _baseline("faster-whisper batched, int8", partial(baselines.batched, precision="int8")),
    "transformers": _baseline("transformers pipeline, chunks of 30 s", baselines.transformers),
}
DEFAULT = ("ours", "ours-beam5", "openai", "faster", "batched", "transformers")


class Worker:
    """The parent's end of an engine's process. `options` are added to those of its spec."""

    def __init__(self, engine: str, checkpoint: Path, threads: int, log: Path, options: whisper_serve.Options) -> None:
        environment = {
            "OMP_NUM_THREADS": str(threads),
            "TOKENIZERS_PARALLELISM": "false",
            **ENGINES[engine].environment,
        }
        command = ("benchmarks.real_speech.worker", engine, str(checkpoint), str(threads), json.dumps(options))
        self._process = JsonSubprocess(engine, command, log, environment)

    def transcribe(self, path: Path, words: bool = False) -> EngineTranscript:
        """Transcribe a file. Raises RuntimeError, with the end of the engine's log, when it dies."""
        return EngineTranscript.of(self._process.ask({"path": str(path.resolve()), "words": words}))

    def close(self) -> None:
        """End the process."""
        self._process.close()


async def _serve(open_engine: AbstractAsyncContextManager[whisper_serve.Transcribe]) -> None:
    """Answer requests until the input ends."""
    with redirect_stdout() as answers:
        async with open_engine as transcribe:
            while line := await asyncio.to_thread(sys.stdin.readline):
                request: dict[str, Any] = json.loads(line)
                start = time.perf_counter()
                transcript = await transcribe(Path(request["path"]), request["words"])
                timed_transcript = replace(transcript, seconds=time.perf_counter() - start)
                print(json.dumps(asdict(timed_transcript)), file=answers, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("threads", type=int)
    parser.add_argument(
        "options", type=json.loads, nargs="?", default={}, help="transcription options of our engine, in JSON"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    open_engine = ENGINES[arguments.engine].open
    if arguments.options:
        if not arguments.engine.startswith("ours"):
            parser.error(f"options are only supported by ours, not by {arguments.engine}")
        assert isinstance(open_engine, partial)
        open_engine = partial(open_engine, options=open_engine.keywords["options"] | arguments.options)
    asyncio.run(_serve(open_engine(arguments.checkpoint, arguments.threads)))


if __name__ == "__main__":
    main()
