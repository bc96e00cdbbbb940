"""Scores and tables of transcripts."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.real_speech import report, score, transcript_cache
from benchmarks.real_speech.recordings import Recording, join_recordings, load, load_extra, synthesise_sentences
from benchmarks.real_speech.transcript import EngineTranscript, TimedText
from testing.non_speech import Sound

DATA = Path(__file__).parents[2] / "data"


def row(file: str = "a.wav", **figures: Any) -> score.Row:
    return {
        "file": file,
        "language": "en",
        "audio_s": 10.0,
        "words": [1, 10],
        "characters": [1, 40],
        "lost_s": 0.0,
        "repeated_words": 0,
        "detected_language": "en",
        "boundaries_s": [0.1, 0.3],
        "seconds": 2.0,
        **figures,
    }


def engine(name: str, *rows: score.Row, **figures: Any) -> report.Engine:
    return {"engine": name, "label": f"engine {name}", "rows": list(rows), **figures}


def test_row_has_figures_and_no_text() -> None:
    pytest.importorskip("whisper", reason="no normaliser without openai-whisper (the extra bench)")
    recording = Recording(DATA / "es.wav", "es", "uno dos tres")
    start, end = recording.speech[0][0], recording.speech[-1][1]
    result = score.row(
        recording, EngineTranscript("Uno, dos.", "es", (TimedText("Uno, dos.", start, end),), seconds=1.0)
    )
    assert (result["words"], result["characters"], result["lost_s"], result["repeated_words"]) == (
        [1, 3],
        [4, 10],
        0,
        0,
    )
    assert result["boundaries_s"] == [0, 0]
    assert "dos" not in json.dumps(result)
    nothing = score.row(recording, EngineTranscript("", "es", ()))
    assert nothing["lost_s"] > 1
    assert nothing["boundaries_s"] is None
    assert score.row(Recording(DATA / "es.wav", None, None), EngineTranscript("uno", "es", ()))["words"] is None


def test_summary() -> None:
    rows = [
        row(),
        row(words=[4, 30], detected_language="de", lost_s=1.5),
        row("b.wav", words=None, characters=None, language=None),
    ]
    result = score.summary(rows)
    assert (result["wer"], result["language_right"], result["speed"]) == (5 / 40, 0.5, 5)
    assert result["with_uncovered_speech"] == ["a.wav"]
    assert score.by_language(rows)["en"]["recordings"] == 2
    assert score.summary([row(words=None)])["wer"] is None


def test_worse_than_baselines() -> None:
    rows = {
        "ours": [row(words=[3, 10]), row("b.wav"), row("c.wav", words=None), row("d.wav", words=[9, 10])],
        "openai": [row(words=[5, 10]), row("b.wav"), row("c.wav", words=None), row("d.wav", words=[9, 10])],
        "faster": [
            row(words=[2, 10]),
            row("b.wav", words=[0, 100]),
            row("c.wav", words=None),
            row("d.wav", words=[9, 10]),
        ],
        "ours-engine": [row(words=[0, 10]), row("b.wav"), row("c.wav", words=None), row("d.wav", words=[9, 10])],
    }
    assert score.worse_than_baselines(rows, "ours") == [("a.wav", 0.3, 0.2), ("b.wav", 0.1, 0.0)]


def test_word_times() -> None:
    reference = {"a": EngineTranscript("", "en", (), (TimedText("one", 0, 1), TimedText("two", 1, 2)))}
    transcript = {"a": EngineTranscript("", "en", (), (TimedText("one", 0.1, 1), TimedText("two", 1.3, 2)))}
    result = score.word_times(reference, transcript)
    assert result is not None
    assert (result["words"], result["start_median_s"], result["end_median_s"]) == (2, 0.2, 0)
    assert score.word_times(reference, {"a": EngineTranscript("", "en", ())}) is None


def test_tables_of_all_engines() -> None:
    ours = engine("ours", row(lost_s=1.5), hallucinations={"hum": 3}, sounds=8, long=row(audio_s=600.0))
    times = {"words": 9, "start_median_s": 0.02, "start_p90_s": 0.1, "end_median_s": 0.03, "end_p90_s": 0.2}
    other = engine("faster", row(words=[0, 10]), word_times=times)
    text = report.text({"engines": [ours, other], "long_minutes": 10.0})
    assert "| engine ours | 10.0% | 2.5% | 1.50 (1) | 0 | 1 of 8 | 100.0% | 0.10 / 0.30 | 5.0 |" in text
    assert text.index("| engine faster | 0.0%") < text.index("| engine ours | 10.0%"), "the best engine comes first"
    assert "| a.wav, 10 s | 10.0% lost 1.50 s | 0.0% |" in text
    assert "- engine ours: a.wav 10.0%, best other engine 0.0%" in text
    assert "| engine faster | 9 | 20 | 100 | 30 | 200 |" in text
    assert "### One recording of 10 minutes" in text
    assert "| engine ours | 10.0% | 0.00 | 0 | 0.30 | 300.0 |" in text


def test_no_table_of_unmeasured_parts() -> None:
    text = report.text({"engines": [engine("ours", hallucinations={}, sounds=8)], "long_minutes": None})
    assert "0 of 8" in text
    assert "WER |\n" not in text
    assert "By recording" not in text


def test_transcript_cache(tmp_path: Path) -> None:
    transcript = EngineTranscript("one", "en", (TimedText("one", 0, 1),), (TimedText("one", 0.1, 0.9),), 2.5)
    path = tmp_path / "new" / "ours.json"
    transcript_cache.save(path, {"speech": {"a.wav": transcript, "b.wav": transcript}})
    transcript_cache.save(path, {"speech": {"b.wav": EngineTranscript("two", None, ())}, "quiet": {}})
    assert transcript_cache.load(path) == {
        "speech": {"a.wav": transcript, "b.wav": EngineTranscript("two", None, ())},
        "quiet": {},
    }
    cached = transcript_cache.CachedTranscripts("ours", path)
    assert cached.transcribe("speech", [Path("elsewhere/a.wav")]) == {"a.wav": transcript}
    with pytest.raises(FileNotFoundError, match=r"no saved transcript of c\.wav by ours in part words"):
        cached.transcribe("words", [Path("c.wav")])


def test_load_recordings(tmp_path: Path) -> None:
    folder = tmp_path / "speech"
    folder.mkdir()
    (tmp_path / "jfk.flac").touch()
    (folder / "truth.json").write_text(json.dumps([{"file": "a.wav", "language": "de", "text": "eins", "seconds": 1}]))
    assert load(folder) == [Recording(folder / "a.wav", "de", "eins")]
    assert [(one.path.name, one.language) for one in load_extra(folder)] == [("jfk.flac", "en")]


def test_detected_speech() -> None:
    recording = Recording(DATA / "es.wav", "es", None)
    assert recording.speech
    assert 0 <= recording.speech[0][0] < recording.speech[-1][1] <= recording.duration


def test_missing_synthesiser_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="apt-get install espeak-ng"):
        synthesise_sentences(tmp_path / "spoken")


def test_join_recordings(tmp_path: Path) -> None:
    parts = []
    for number, seconds in enumerate((2, 3)):
        path = tmp_path / f"{number}.wav"
        Sound("", np.full(seconds * 16_000, number + 1, np.int16)).write(path)
        parts.append(Recording(path, "en", f"text{number}"))
    joined = join_recordings(parts, 0.5, tmp_path / "new" / "long.wav")
    assert 30 <= joined.duration < 30 + 3 + 2
    assert joined.text is not None
    texts = joined.text.split()
    edges = np.flatnonzero(np.diff(joined.pcm, prepend=0) > 0)
    assert [f"text{joined.pcm[edge] - 1}" for edge in edges] == texts
    assert set(texts) == {"text0", "text1"}
    assert np.array_equal(join_recordings(parts, 0.5, tmp_path / "again.wav").pcm, joined.pcm)
