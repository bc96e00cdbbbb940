"""A subprocess that answers requests on its standard input with responses on its standard output, as lines of JSON."""

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
    """The parent's end. Raises RuntimeError, with the end of the log, when the process dies."""

    def __init__(self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self._name, self._log = name, log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as errors:
            self._process = subprocess.Popen(  # noqa: S603 (a module of this project)
                [sys.executable, "-m", *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=os.environ | environment,
            )

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Send a request; return the response."""
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
        """End the process; it is killed if it does not exit soon after its input has ended."""
        try:
            self._process.communicate(timeout=_CLOSE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()


def redirect_stdout() -> TextIO:
    """Return the process's standard output for its responses; from now on `print` writes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers
