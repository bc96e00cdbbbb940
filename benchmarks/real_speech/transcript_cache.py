"""Transcripts of engines, saved in a file for each, so that a later run can be compared with them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.real_speech.transcript import EngineTranscript
from benchmarks.real_speech.worker import Worker

TranscriptsByPart = dict[str, dict[str, EngineTranscript]]
"""By part of the benchmark, then by file name."""


def load(path: Path) -> TranscriptsByPart:
    """Return the transcripts in a file; none if it does not exist."""
    if not path.exists():
        return {}
    content = json.loads(path.read_text())
    return {
        part: {name: EngineTranscript.of(fields) for name, fields in transcripts.items()}
        for part, transcripts in content.items()
    }


def save(path: Path, new: Mapping[str, Mapping[str, EngineTranscript]]) -> None:
    """Add transcripts to those in a file; newer ones replace older ones."""
    merged = load(path)
    for part, transcripts in new.items():
        merged[part] = merged.get(part, {}) | dict(transcripts)
    content = {part: {name: asdict(one) for name, one in transcripts.items()} for part, transcripts in merged.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n")


class LiveTranscripts:
    """Transcripts of a running engine, which are saved to `path`."""

    def __init__(self, engine: str, worker: Worker, path: Path) -> None:
        self._engine, self._worker, self._path = engine, worker, path
        self._warm = False

    def transcribe(self, part: str, files: Sequence[Path], words: bool = False) -> dict[str, EngineTranscript]:
        """Transcribe each file; the first one is transcribed twice, as a warm-up."""
        transcripts: dict[str, EngineTranscript] = {}
        try:
            for number, file in enumerate(files, 1):
                if not self._warm:
                    self._worker.transcribe(file)
                    self._warm = True
                transcript = transcripts[file.name] = self._worker.transcribe(file, words)
                print(
                    f"  {self._engine} {part} {number}/{len(files)} {file.name} in {transcript.seconds:.1f} s",
                    flush=True,
                )
        finally:  # also save the transcripts before an engine's failure
            save(self._path, {part: transcripts})
        return transcripts

    def close(self) -> None:
        """End the engine's process."""
        self._worker.close()


class CachedTranscripts:
    """Transcripts that an engine saved to `path` in an earlier run."""

    def __init__(self, engine: str, path: Path) -> None:
        self._engine, self._transcripts = engine, load(path)

    def transcribe(self, part: str, files: Sequence[Path], words: bool = False) -> dict[str, EngineTranscript]:
        """Return the saved transcripts. Raises FileNotFoundError that names a file without one."""
        cached = self._transcripts.get(part, {})
        for file in files:
            if file.name not in cached:
                raise FileNotFoundError(
                    f"no saved transcript of {file.name} by {self._engine} in part {part}: run the engine first"
                )
        return {file.name: cached[file.name] for file in files}

    def close(self) -> None:
        """Do nothing: no process runs."""
