"""One engine in a process of its own, asked over a pipe for the text of one recording after another.

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

from benchmarks.json_subprocess import Piped, take_output
from benchmarks.real_speech import whisper_serve as ours
from benchmarks.real_speech import baselines as peers
from benchmarks.real_speech.transcript import Heard

Open = Callable[[Path, int], AbstractAsyncContextManager[ours.Hear]]


@dataclass(frozen=True)
class Kind:
    """The name of an engine in tables, how to open it, and the environment it needs."""

    label: str
    open: Open
    environment: Mapping[str, str] = field(default_factory=dict)


def _variants(name: str, label: str, opened: Callable[..., AbstractAsyncContextManager[ours.Hear]]) -> dict[str, Kind]:
    """The service, or its flow in one process, at its defaults and otherwise."""

    def kind(variant: str, options: ours.Options, **environment: str) -> Kind:
        return Kind(f"{label}, {variant}", partial(opened, options=options), environment)

    return {
        name: kind("defaults", {}),
        f"{name}-greedy": kind("greedy", {"beam_size": 1}),
        f"{name}-beam5": kind("beam 5", {"beam_size": 5}),
        f"{name}-none": kind("no timestamps", {"timestamps": "none"}),
        f"{name}-float32": kind("float32", {}, STT_WHISPER__DTYPE="float32"),
        f"{name}-bfloat16": kind("bfloat16", {}, STT_WHISPER__DTYPE="bfloat16"),
    }


def _peer(label: str, load: peers.Open) -> Kind:
    return Kind(label, partial(peers.opened, load))


KINDS = {
    **_variants("ours", "this service over HTTP", ours.over_http),
    **_variants("ours-engine", "this service in one process", ours.in_process),
    "openai": _peer("openai-whisper, its command's defaults", peers.openai),
    "faster": _peer("faster-whisper, float32", partial(peers.faster, precision="float32")),
    "faster-int8": _peer("faster-whisper, int8", partial(peers.faster, precision="int8")),
    "batched": _peer("faster-whisper batched, float32", partial(peers.batched, precision="float32")),
    "batched-int8": _peer("faster-whisper batched, int8", partial(peers.batched, precision="int8")),
    "transformers": _peer("transformers pipeline, chunks of 30 s", peers.transformers),
}
DEFAULT = ("ours", "ours-beam5", "openai", "faster", "batched", "transformers")


class Worker:
    """The parent's end of an engine's process. `options`: of ours, beside those of its kind."""

    def __init__(self, kind: str, checkpoint: Path, threads: int, log: Path, options: ours.Options) -> None:
        environment = {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false", **KINDS[kind].environment}
        command = ("benchmarks.real_speech.worker", kind, str(checkpoint), str(threads), json.dumps(options))
        self._process = Piped(kind, command, log, environment)

    def hear(self, path: Path, words: bool = False) -> Heard:
        """The text of a recording. Raises RuntimeError, with the end of the engine's log, when it dies."""
        return Heard.of(self._process.ask({"path": str(path.resolve()), "words": words}))

    def close(self) -> None:
        """End the process."""
        self._process.close()


async def _serve(opened: AbstractAsyncContextManager[ours.Hear]) -> None:
    """Answer requests until the input ends."""
    with take_output() as answers:
        async with opened as hear:
            while line := await asyncio.to_thread(sys.stdin.readline):
                request: dict[str, Any] = json.loads(line)
                start = time.perf_counter()
                heard = await hear(Path(request["path"]), request["words"])
                timed = replace(heard, seconds=time.perf_counter() - start)
                print(json.dumps(asdict(timed)), file=answers, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("threads", type=int)
    parser.add_argument("options", type=json.loads, nargs="?", default={}, help="of ours, in JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    opened = KINDS[arguments.kind].open
    if arguments.options:
        if not arguments.kind.startswith("ours"):
            parser.error(f"options are for ours: {arguments.kind} takes none")
        assert isinstance(opened, partial)
        opened = partial(opened, options=opened.keywords["options"] | arguments.options)
    asyncio.run(_serve(opened(arguments.checkpoint, arguments.threads)))


if __name__ == "__main__":
    main()
