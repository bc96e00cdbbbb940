"""`python -m serve_app.models NAME …`: download models and pipelines of the catalogue ahead of time."""

import argparse
import sys
from pathlib import Path

from serve_app.models.catalogue import CATALOGUE, PIPELINES
from serve_app.models.fetch import ModelUnavailable
from serve_app.models.resolve import resolve_checkpoint, resolve_pipeline
from serve_app.whisper.model.tokens import CheckpointError


def main() -> int:
    """Print the folder of each."""
    parser = argparse.ArgumentParser(
        prog="python -m serve_app.models", description="Download models ahead of time, for an image or another machine."
    )
    names = [*CATALOGUE, *PIPELINES]
    parser.add_argument("names", nargs="+", metavar="NAME", choices=names, help=", ".join(names))
    parser.add_argument("--dir", type=Path, default=Path("data/models"), help="output folder (data/models)")
    options = parser.parse_args()
    try:
        for name in options.names:
            resolve = resolve_pipeline if name in PIPELINES else resolve_checkpoint
            print(resolve(name, options.dir, lambda line: print(line, file=sys.stderr, flush=True)))
    except (ModelUnavailable, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
