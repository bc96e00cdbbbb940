"""Result files in `benchmarks/results/`, with time, machine and package versions."""

import json
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

_RESULTS = Path(__file__).parent / "results"


def save_result(name: str, packages: Sequence[str], figures: dict[str, Any]) -> Path:
    """Write a benchmark's figures to a new file; `packages` are those whose versions matter."""
    now = datetime.now(UTC)
    result = {
        "when": now.isoformat(timespec="seconds"),
        "machine": {"platform": platform.platform(), "cores": os.cpu_count()},
        "versions": {"python": platform.python_version(), **{package: version(package) for package in packages}},
        **figures,
    }
    _RESULTS.mkdir(exist_ok=True)
    path = _RESULTS / f"{name}-{now:%Y%m%d-%H%M%S}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"saved {path}")
    return path


def processor_name() -> str:
    """Return the processor's name, if the system provides it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
