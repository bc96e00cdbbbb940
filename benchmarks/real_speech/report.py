"""Tables of the results of benchmarks.real_speech, and their section of docs/accuracy.md."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.real_speech.metrics import Errors
from benchmarks.real_speech.score import by_language, summary, worse_than_baselines

_DOCS = Path(__file__).parents[2] / "docs" / "accuracy.md"
_MARKS = ("<!-- figures: written by benchmarks.real_speech -->", "<!-- end of figures -->")

Engine = dict[str, Any]
"""`label`, `rows`, and as far as they were measured `hallucinations`, `sounds`, `word_times` and `long`."""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table: the first column aligned left, the others right."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def overview(engines: Sequence[Engine]) -> str:
    """Return a line for each engine, the lowest word error rate first."""
    lines = []
    for engine in sorted(engines, key=lambda engine: summary(engine["rows"])["wer"] or 0):
        total = summary(engine["rows"])
        incomplete = len(total["with_uncovered_speech"])
        lines.append(
            [
                engine["label"],
                percent(total["wer"]),
                percent(total["cer"]),
                f"{seconds(total['lost_s'])} ({incomplete})" if total["lost_s"] is not None else "",
                str(total["repeated_words"]),
                f"{len(engine['hallucinations'])} of {engine['sounds']}" if "hallucinations" in engine else "",
                percent(total["language_right"]),
                f"{seconds(total['start_error_s'])} / {seconds(total['end_error_s'])}",
                f"{total['speed']:.1f}",
            ]
        )
    head = ("", "WER", "CER", "speech lost, s (recordings over 1 s)", "words doubled", "non-speech with text")
    return table((*head, "language right", "start / end error, s", "× real time"), lines)


def languages(engines: Sequence[Engine]) -> str:
    """Return word error rates by language."""
    by_engine = [by_language(engine["rows"]) for engine in engines]
    names = sorted({language for figures in by_engine for language in figures})
    lines = [[name, *(percent(figures.get(name, {}).get("wer")) for figures in by_engine)] for name in names]
    return table(("WER", *(engine["label"] for engine in engines)), lines) if lines else ""


def recordings(engines: Sequence[Engine]) -> str:
    """Return word error rates by recording, with more than a second of lost speech noted."""
    lines = []
    for same in zip(*(engine["rows"] for engine in engines), strict=True):
        cells = []
        for row in same:
            wer = "" if row["words"] is None else percent(Errors(*row["words"]).rate)
            cells.append(f"{wer}{' lost ' + seconds(row['lost_s']) + ' s' if (row['lost_s'] or 0) > 1 else ''}")
        lines.append([f"{same[0]['file']}, {same[0]['audio_s']:.0f} s", *cells])
    return table(("WER", *(engine["label"] for engine in engines)), lines) if lines else ""


def words(engines: Sequence[Engine]) -> str:
    """Return the differences of word timestamps from openai-whisper's."""
    lines = []
    for engine in engines:
        if times := engine.get("word_times"):
            starts, ends = ([times[f"{side}_{name}_s"] for name in ("median", "p90")] for side in ("start", "end"))
            lines.append([engine["label"], str(times["words"]), *(f"{value * 1000:.0f}" for value in (*starts, *ends))])
    head = ("", "words", "start: median, ms", "start: 90 %, ms", "end: median, ms", "end: 90 %, ms")
    return table(head, lines) if lines else ""


def long_form(engines: Sequence[Engine]) -> str:
    """Return the figures of the long recording."""
    lines = []
    for engine in engines:
        if row := engine.get("long"):
            end = "" if row["boundaries_s"] is None else f"{row['boundaries_s'][1]:.2f}"
            wer, lost = percent(Errors(*row["words"]).rate), seconds(row["lost_s"])
            lines.append(
                [engine["label"], wer, lost, str(row["repeated_words"]), end, f"{row['audio_s'] / row['seconds']:.1f}"]
            )
    head = ("", "WER", "speech lost, s", "words doubled", "last end off by, s", "× real time")
    return table(head, lines) if lines else ""


def losses(engines: Sequence[Engine]) -> str:
    """List the recordings on which ours is more than 5 points worse than the best other engine."""
    rows = {engine["engine"]: engine["rows"] for engine in engines}
    return "\n".join(
        f"- {engine['label']}: {file} {own:.1%}, best other engine {best:.1%}"
        for engine in engines
        if engine["engine"].startswith("ours")
        for file, own, best in worse_than_baselines(rows, engine["engine"])
    )


def text(result: dict[str, Any]) -> str:
    """Return all tables in Markdown."""
    engines = result["engines"]
    sections = [
        ("All recordings", overview(engines)),
        ("By language", languages(engines)),
        ("By recording", recordings(engines)),
        ("Where another engine is better by more than 5 points", losses(engines)),
        ("Words' times against openai-whisper's", words(engines)),
        (f"One recording of {result['long_minutes'] or 0:g} minutes", long_form(engines)),
    ]
    return "\n\n".join(f"### {title}\n\n{body}" for title, body in sections if body)


def publish(path: Path) -> None:
    """Write a result's tables to docs/accuracy.md, between its marks."""
    result = json.loads(path.read_text())
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    head = (
        f"Measured {result['when'][:10]} with {result['checkpoint']} on {result['threads']} threads of "
        f"{result['processor']}; {versions}."
    )
    before, rest = _DOCS.read_text().split(_MARKS[0])
    after = rest.split(_MARKS[1])[1]
    _DOCS.write_text(f"{before}{_MARKS[0]}\n\n{head}\n\n{text(result)}\n\n{_MARKS[1]}{after}")
    print(f"wrote {_DOCS}")
