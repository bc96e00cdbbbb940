"""The accuracy of the embedded model on voices and sequences that it was not trained on."""

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.accuracy import start_errors, table, transcribe_folder
from testing.scoring import normalise
from tests.cluster import Running

SYNTHESISERS = ("espeak-ng", "flite", "text2wave")
missing = [name for name in SYNTHESISERS if shutil.which(name) is None]


@pytest.mark.skipif(bool(missing), reason=f"no held-out speech without {', '.join(missing)}")
def test_held_out_recordings(tmp_path: Path, running: Running) -> None:
    sizes = ["--seed", "3", "--speech", "24", "--long", "0", "--other", "8"]
    subprocess.run([sys.executable, "-m", "benchmarks.heldout_set", str(tmp_path), *sizes], check=True)
    answers = asyncio.run(transcribe_folder(running.url, tmp_path, 4, None))
    figures = table(answers)["all"]
    print(json.dumps(figures))
    # The bound over a large set is 3 %; this one holds a few hundred words.
    assert figures["wer"] <= 0.05
    assert figures["boundaries"] >= 0.9
    assert figures["starts"] >= 0.9
    assert figures["start_median_s"] <= 0.1
    assert figures["language"] == 1
    assert not [a.truth["file"] for a in answers if a.truth["kind"] != "speech" and normalise(a.transcript["text"])]


def test_start_errors_of_matching_words() -> None:
    reference = [("one", 0.0), ("two", 1.0), ("three", 2.0)]
    assert start_errors(reference, [("one", 0.5), ("four", 1.0), ("Three.", 2.25)]) == [0.5, 0.25]
    assert start_errors(reference, [("two", 1.125)]) == [0.125]
    assert start_errors(reference, []) == start_errors([], reference) == []
