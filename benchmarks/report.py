"""Tables, ratios and a plot of the results of benchmarks.speed, and their section of docs/performance.md."""

import json
from pathlib import Path
from statistics import median
from typing import Any

_DOCS = Path(__file__).parents[1] / "docs" / "performance.md"
_MARKS = ("<!-- figures: written by benchmarks.speed -->", "<!-- end of figures -->")
MAX_TOKENS_OFF = 0.02
"""An engine that wrote fewer tokens than ours by more than this share is not comparable."""
TITLES = {
    "base": "whisper-base's layout, random weights, 97 tokens a window",
    "nano": "whisper-nano on spoken digits, tokens until the model ends a window",
    "slots": "Windows of mixed lengths on whisper-base's layout, 16 at a time",
    "batches base": "Batch sizes, whisper-base's layout",
    "batches nano": "Batch sizes, whisper-nano",
    "real": "whisper-base on real English speech, greedy, tokens until the model ends a window",
    "real beam 5": "whisper-base on real English speech, beams of 5",
}
Case = dict[str, Any]


def speed(case: Case) -> float:
    """Return the seconds of audio per second of the median pass."""
    return float(case["audio_s"]) / median(case["seconds"])


def tokens_per_second(case: Case) -> float:
    """Return the tokens per second of the median pass."""
    return sum(case["tokens"]) / median(case["seconds"])


def rate(case: Case) -> float:
    """Return the tokens per second of audio."""
    return float(sum(case["tokens"]) / case["audio_s"])


def comparable(cases: list[Case]) -> list[Case]:
    """Return the cases that wrote at least about as many tokens as ours: one that wrote fewer had less to do."""
    ours = [rate(case) for case in cases if case["engine"] == "ours"]
    return [case for case in cases if not ours or rate(case) >= min(ours) * (1 - MAX_TOKENS_OFF)]


def table(cases: list[Case]) -> str:
    """Return a Markdown table, fastest first."""
    comparable_labels = {case["label"] for case in comparable(cases)}
    lines = [
        "| | batch | sound | passes | × real time: median (min–max) | windows/s | tokens/s | tokens/window | WER |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for case in sorted(cases, key=speed, reverse=True):
        slowest, fastest = (case["audio_s"] / f(case["seconds"]) for f in (max, min))
        count = sum(case["tokens"]) / case["windows"]
        cells = (
            case["label"],
            case["batch_size"],
            f"{case['audio_s'] / 60:.0f} min",
            len(case["seconds"]),
            f"{speed(case):.1f} ({slowest:.1f}–{fastest:.1f})",
            f"{case['windows'] / median(case['seconds']):.2f}",
            f"{tokens_per_second(case):.0f}",
            f"{count:.1f}{'' if case['label'] in comparable_labels else ' *'}",
            "" if case["wer"] is None else f"{case['wer']:.1%}",
        )
        lines.append(f"| {' | '.join(str(cell) for cell in cells)} |")
    if len(comparable_labels) < len(cases):
        lines += ["", "\\* fewer tokens than ours by more than 2 %: not counted among the fastest."]
    return "\n".join(lines)


def ratios(result: dict[str, Any]) -> dict[str, float]:
    """Return the ratios of our engine to others, as far as they were measured, by description."""
    found = {}
    for layout in ("base", "nano", "real", "real beam 5"):
        cases = result["parts"].get(layout, [])
        ours = next((case for case in cases if case["engine"] == "ours"), None)
        others = [case for case in cases if case["engine"] != "ours"]
        if ours is None or not others:
            continue
        comparable_cases = [case for case in comparable(cases) if case["engine"] != "ours"]
        if comparable_cases:
            fastest = max(comparable_cases, key=speed)
            found[f"{layout}: ours to the fastest other engine ({fastest['label']})"] = speed(ours) / speed(fastest)
        for case in others:
            if case["engine"] == "tutorial":
                found[f"{layout}: ours to the pipeline 30 s at a time"] = speed(ours) / speed(case)
    if "slots" in result["parts"]:
        slots, static = result["parts"]["slots"]
        found["slots to static batches, tokens a second"] = tokens_per_second(slots) / tokens_per_second(static)
    return found


def text(result: dict[str, Any]) -> str:
    """Return everything but the plot, in Markdown."""
    where = result["machine"]
    head = (
        f"Measured {result['when'][:10]} on {where['cores']} cores of {where['processor']}, load average "
        f"{where['load_average']} at the start; "
        + ", ".join(f"{name} {number}" for name, number in result["versions"].items())
        + "."
    )
    sections = [f"### {TITLES[part]}\n\n{table(cases)}" for part, cases in result["parts"].items()]
    lines = "\n".join(f"- {name}: **{ratio:.2f}**" for name, ratio in ratios(result).items())
    return "\n\n".join([head, lines, *sections])


def plot(result: dict[str, Any], path: Path) -> None:
    """Plot the engines' speeds on each layout as bars, with the range of their passes."""
    from matplotlib.figure import Figure

    layouts = [layout for layout in ("base", "nano", "real") if layout in result["parts"]]
    figure = Figure(figsize=(9, 3.6 * len(layouts)), layout="constrained")
    for axes, layout in zip(figure.subplots(len(layouts), squeeze=False)[:, 0], layouts, strict=True):
        cases = sorted(result["parts"][layout], key=speed)
        speeds = [speed(case) for case in cases]
        ranges = [
            [value - case["audio_s"] / max(case["seconds"]) for value, case in zip(speeds, cases, strict=True)],
            [case["audio_s"] / min(case["seconds"]) - value for value, case in zip(speeds, cases, strict=True)],
        ]
        colours = ["#d1495b" if case["engine"] == "ours" else "#8d99ae" for case in cases]
        labels = [case["label"] for case in cases]
        bars = axes.barh(labels, speeds, xerr=ranges, color=colours, error_kw={"ecolor": "#333333", "capsize": 3})
        axes.bar_label(bars, fmt="%.1f", padding=6)
        axes.set_title(TITLES[layout], loc="left", fontsize=10)
        axes.margins(x=0.12)
        axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(f"seconds of sound per second, on {result['machine']['cores']} cores")
    figure.savefig(path, dpi=130)


def publish(path: Path) -> None:
    """Write a result's tables and plot to docs/performance.md, between its marks."""
    result = json.loads(path.read_text())
    picture = path.with_suffix(".png")
    plot(result, picture)
    before, rest = _DOCS.read_text().split(_MARKS[0])
    after = rest.split(_MARKS[1])[1]
    link = f"![Speeds of the engines](../benchmarks/results/{picture.name})"
    _DOCS.write_text(f"{before}{_MARKS[0]}\n\n{link}\n\n{text(result)}\n\n{_MARKS[1]}{after}")
    print(f"wrote {_DOCS} and {picture}")
