"""One diarizer in a process of its own, with one core and thread, which diarizes files on request over pipes.

python -m benchmarks.diarization.worker ours
"""

import json
import os
import resource
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.diarization.engines import ENGINES
from benchmarks.diarization.recordings import SpokenTurn
from benchmarks.json_subprocess import JsonSubprocess, redirect_stdout

_THREADS = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS", "NUMBA")}


@dataclass(frozen=True)
class Diarization:
    """The turns of a recording, the CPU seconds of the whole process, and its peak memory so far."""

    turns: tuple[SpokenTurn, ...]
    cpu_s: float
    peak_bytes: int


class Worker:
    """The parent's end of a diarizer's process."""

    def __init__(self, engine: str, log: Path) -> None:
        self._process = JsonSubprocess(engine, ("benchmarks.diarization.worker", engine), log, _THREADS)

    def diarize(self, path: Path) -> Diarization:
        """Diarize a 16 kHz mono WAV file. Raises RuntimeError, with the end of the log, when the process dies."""
        answer = self._process.ask({"path": str(path.resolve())})
        turns = tuple(SpokenTurn(**turn) for turn in answer["turns"])
        return Diarization(turns, answer["cpu_s"], answer["peak_bytes"])

    def close(self) -> None:
        """End the process."""
        self._process.close()


def main() -> None:
    answers = redirect_stdout()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    diarize = ENGINES[sys.argv[1]].load()
    for line in sys.stdin:
        start = time.process_time()
        turns = diarize(Path(json.loads(line)["path"]))
        answer = {
            "turns": [asdict(turn) for turn in turns],
            "cpu_s": round(time.process_time() - start, 4),
            "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
