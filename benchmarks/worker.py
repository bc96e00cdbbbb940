"""One engine in a process of its own, driven over a pipe: engines share neither thread pools nor memory.

    python -m benchmarks.worker ct2-int8 serve_app/models/whisper-nano 2

reads a request as a line of JSON on its input, and answers with one on its output.
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

from benchmarks.engines import How, Ours, Transcribe
from benchmarks.baselines import Chunked, CTranslate2, FasterBatched, FasterWhisper, OneByOne, OpenAI
from benchmarks.json_subprocess import Piped, take_output
from benchmarks.workloads import Work
from serve_app.cores import SPINS


@dataclass(frozen=True)
class Kind:
    """How to load an engine, what a table calls it, and whether it is too slow to be given all the sound."""

    label: str
    load: Callable[[Path, int], Transcribe]
    slow: bool = False
    batch_size: int = 16


KINDS = {
    "ours": Kind("this project, bfloat16 where the CPU has it", Ours),
    "ct2": Kind("CTranslate2 alone, float32", partial(CTranslate2, precision="float32")),
    "ct2-int8": Kind("CTranslate2 alone, int8", partial(CTranslate2, precision="int8")),
    "faster-batched": Kind("faster-whisper batched, float32", partial(FasterBatched, precision="float32")),
    "faster-batched-int8": Kind("faster-whisper batched, int8", partial(FasterBatched, precision="int8")),
    "faster": Kind("faster-whisper, float32", partial(FasterWhisper, precision="float32"), True, 1),
    "faster-int8": Kind("faster-whisper, int8", partial(FasterWhisper, precision="int8"), True, 1),
    "openai": Kind("openai-whisper, float32", OpenAI, True, 1),
    "pipeline": Kind("transformers pipeline, chunked, float32", Chunked, batch_size=24),
    "tutorial": Kind("transformers pipeline, 30 s at a time, float32", OneByOne, True, 1),
}


@dataclass(frozen=True)
class Run:
    """One pass over some work: wall seconds from sound to text, tokens of each window decoded, all the text."""

    seconds: float
    tokens: tuple[int, ...]
    text: str


class Worker:
    """The parent's end of an engine's process. Raises RuntimeError, with the end of its log, when it dies."""

    def __init__(self, kind: str, checkpoint: Path, threads: int, log: Path) -> None:
        environment = {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        if kind == "ours":  # as its replicas have it
            environment["GOMP_SPINCOUNT"] = str(SPINS)
        command = ("benchmarks.worker", kind, str(checkpoint), str(threads))
        self._process = Piped(kind, command, log, environment)

    def run(self, work: Path, windows: int | None = None, how: How | None = None) -> Run:
        """One pass over the work saved in a file, or over its first windows."""
        fields = self._process.ask({"work": str(work), "windows": windows, "how": asdict(how or How())})
        return Run(fields["seconds"], tuple(fields["tokens"]), fields["text"])

    def close(self) -> None:
        """End the process."""
        self._process.close()


def serve(transcribe: Transcribe) -> None:
    """Answer requests until the input ends."""
    with take_output() as answers:
        for line in sys.stdin:
            request = json.loads(line)
            work = Work.load(Path(request["work"])).first(request["windows"])
            start = time.perf_counter()
            heard = transcribe(work, How(**request["how"]))
            seconds = time.perf_counter() - start
            run = Run(seconds, tuple(window.tokens for window in heard), " ".join(window.text for window in heard))
            print(json.dumps(asdict(run)), file=answers, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("threads", type=int)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    serve(KINDS[arguments.kind].load(arguments.checkpoint, arguments.threads))


if __name__ == "__main__":
    main()
