"""The table of the results of benchmarks.diarization, and its section of docs/diarization.md."""

from pathlib import Path
from typing import Any

_DOCS = Path(__file__).parents[2] / "docs" / "diarization.md"
_MARKS = ("<!-- figures: written by benchmarks.diarization -->", "<!-- end of figures -->")
_NAMES = {"composed": "composed", "ami_trn": "AMI meetings", "sample": "pyannote's sample"}


def overview(result: dict[str, Any]) -> str:
    """Return a Markdown table with a line for each engine."""
    engines = list(result["engines"].values())
    groups = list(engines[0]["groups"])
    head = ["", *(f"{_NAMES.get(group, group)}: DER, %" for group in groups), "without collar", "JER", "speakers right"]
    lines = [[*head, "× real time", "peak memory, GiB"], ["---", *["--:"] * (len(groups) + 5)]]
    for engine in engines:
        scores = list(engine["groups"].values())
        lines.append(
            [
                engine["label"],
                *(f"{100 * score['error']:.1f}" for score in scores),
                *(
                    " / ".join(f"{100 * score[key]:.1f}" for score in scores)
                    for key in ("error_without_collar", "jaccard")
                ),
                " / ".join(f"{score['counts_right']} of {score['recordings']}" for score in scores),
                f"{engine['times_real_time']:.1f}",
                f"{engine['peak_bytes'] / 2**30:.2f}",
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_docs(result: dict[str, Any], saved: Path) -> None:
    """Write the table to docs/diarization.md."""
    begin, end = _MARKS
    text = _DOCS.read_text(encoding="utf-8")
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    link = f"[{saved.name}](../benchmarks/results/{saved.name})"
    section = f"{begin}\n\n{overview(result)}\n\n{result['processor']}, one core and thread: {link}.\n\n{end}"
    _DOCS.write_text(before + section + after, encoding="utf-8")
    print(f"wrote {_DOCS}")
