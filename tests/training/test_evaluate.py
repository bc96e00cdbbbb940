"""Windows of a held-out recording."""

import numpy as np

from training.whisper_nano.evaluate import windows


def test_windows_hold_whole_utterances() -> None:
    utterances = [{"start": 4.0 * i + 1, "end": 4.0 * i + 3, "text": "one", "words": []} for i in range(6)]
    cut = list(windows({"language": "en", "utterances": utterances}, np.zeros(25 * 16000, np.float32), 10))
    assert [len(window.utterances) for window in cut] == [2, 2, 2]
    assert all(len(window.samples) <= 10 * 16000 for window in cut)
    assert all(window.offset < window.utterances[0]["start"] for window in cut)
