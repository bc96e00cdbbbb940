"""Answers of engines, kept in a file each, so that a later run can be compared with them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.real_speech.transcript import Heard
from benchmarks.real_speech.worker import Worker

Answers = dict[str, dict[str, Heard]]
"""By part of the benchmark, then by file name."""


def load(path: Path) -> Answers:
    """Return the answers kept in a file; none where it does not exist."""
    if not path.exists():
        return {}
    content = json.loads(path.read_text())
    return {part: {name: Heard.of(fields) for name, fields in heard.items()} for part, heard in content.items()}


def keep(path: Path, answers: Mapping[str, Mapping[str, Heard]]) -> None:
    """Adds answers to those in a file; newer ones replace older ones."""
    merged = load(path)
    for part, heard in answers.items():
        merged[part] = merged.get(part, {}) | dict(heard)
    content = {part: {name: asdict(one) for name, one in heard.items()} for part, heard in merged.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n")


class Running:
    """An engine that is asked now, and whose answers are kept in `path`."""

    def __init__(self, kind: str, worker: Worker, path: Path) -> None:
        self._kind, self._worker, self._path = kind, worker, path
        self._warm = False

    def hear(self, part: str, files: Sequence[Path], words: bool = False) -> dict[str, Heard]:
        """Return its answer to each file; the very first is transcribed once before, to warm up."""
        heard: dict[str, Heard] = {}
        try:
            for number, file in enumerate(files, 1):
                if not self._warm:
                    self._worker.hear(file)
                    self._warm = True
                answer = heard[file.name] = self._worker.hear(file, words)
                print(f"  {self._kind} {part} {number}/{len(files)} {file.name} in {answer.seconds:.1f} s", flush=True)
        finally:  # what was heard before an engine dies stays
            keep(self._path, {part: heard})
        return heard

    def close(self) -> None:
        """End the engine's process."""
        self._worker.close()


class Kept:
    """An engine that wrote its answers into `path` in an earlier run."""

    def __init__(self, kind: str, path: Path) -> None:
        self._kind, self._answers = kind, load(path)

    def hear(self, part: str, files: Sequence[Path], words: bool = False) -> dict[str, Heard]:
        """Its answers. Raises FileNotFoundError that names the file which it has not heard."""
        known = self._answers.get(part, {})
        for file in files:
            if file.name not in known:
                raise FileNotFoundError(f"no kept answer of {self._kind} to {file.name} in part {part}: run it first")
        return {file.name: known[file.name] for file in files}

    def close(self) -> None:
        """Nothing runs."""
