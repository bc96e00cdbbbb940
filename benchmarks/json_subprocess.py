"""A process of our own that answers requests, each a line of JSON on its input, with a line of JSON on its output."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

_CLOSE_S = 60.0


class JsonSubprocess:
    """The parent's end. Raises RuntimeError, with the end of its log, when the process dies."""

    def __init__(self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self._name, self._log = name, log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as errors:
            self._process = subprocess.Popen(  # noqa: S603 (a module of ours)
                [sys.executable, "-m", *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=os.environ | environment,
            )

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to one request."""
        answer = ""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(request), file=self._process.stdin, flush=True)
            answer = self._process.stdout.readline()
        if not answer:
            self.close()
            raise RuntimeError(f"{self._name} died; the end of {self._log}:\n{self._log.read_text()[-1500:]}")
        fields: dict[str, Any] = json.loads(answer)
        return fields

    def close(self) -> None:
        """End the process; one that has not ended soon after its input has is killed."""
        try:
            self._process.communicate(timeout=_CLOSE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()


def redirect_stdout() -> TextIO:
    """The process's own output for its answers; what libraries print goes to the log from now on."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers
