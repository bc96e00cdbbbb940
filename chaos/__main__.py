"""Kill the service's processes while it works, and check that nothing it accepted is lost.

    python -m chaos [--jobs 200] [--seed NUMBER] [--keep]

Starts a service on loopback and submits jobs to it, each with a webhook to a receiver that fails a third of its calls.
Meanwhile one process after another is killed (SIGKILL): Whisper and Transcriber replicas, Ingress, the job manager,
Serve's controller. Then, in the middle of the work, all of them at once, and the service is started again on the same
folder and port. Clients repeat a failed call, a submit with the same Idempotency-Key.

The test passes (exit code 0) if every job was accepted, every submit made one job, every job has the same text as in an
undisturbed run, by GET and in its webhook, and every webhook was signed and acknowledged in the end, under one id.
Needs Linux and the packages of `make install`; other services on this machine are left alone.
"""

import argparse
import asyncio
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from chaos.checks import find_problems, summarise
from chaos.run import Plan, Run
from chaos.service import adopt_orphans, kill_descendants

GRACE_S = 90
"""Seconds after its time limit at which a run that hangs is ended by force."""

SHOWN = 30
"""The number of problems that are printed."""

_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)


def main() -> int:
    """Return 0 if nothing was lost, else 1."""
    options = _parser().parse_args()
    plan = Plan(options.jobs, options.stall, options.limit, options.seed)
    start = time.monotonic()

    def log(line: str) -> None:
        print(f"{time.monotonic() - start:6.1f} s  {line}", flush=True)

    for number in _STOPS:
        signal.signal(number, _stop)
    signal.alarm(round(plan.limit_s) + GRACE_S)
    adopt_orphans()
    # Short, because paths of Ray's sockets inside it are limited to 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="chaos-", dir="/tmp"))
    log(f"{plan.jobs} jobs, seed {plan.seed}, in {folder}")
    try:
        outcome = asyncio.run(Run(plan, folder, log)())
    finally:
        kill_descendants()  # even if the event loop failed
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    for name, figure in summarise(outcome).items():
        print(f"{name:>15}  {figure}")
    wrong = find_problems(outcome)
    if not wrong:
        print("PASSED: nothing was lost", flush=True)
        return 0
    print(f"FAILED (seed {plan.seed}), {len(wrong)} problems:", *wrong[:SHOWN], sep="\n  ", flush=True)
    return 1


def _stop(number: int, _: object) -> None:
    for each in _STOPS:  # ignore further signals: the clean-up must not be interrupted
        signal.signal(each, signal.SIG_IGN)
    sys.exit(f"stopped by {signal.Signals(number).name}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=200, help="number of jobs (200)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="random seed (a new one each time)")
    parser.add_argument("--limit", type=float, default=1200, help="seconds for the whole run (1200)")
    parser.add_argument(
        "--stall", type=float, default=150, help="seconds without an ended job before the run fails (150)"
    )
    parser.add_argument("--keep", action="store_true", help="keep the folder: database, service.log and Ray's logs")
    return parser


if __name__ == "__main__":
    sys.exit(main())
