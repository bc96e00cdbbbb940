"""Kill the service's processes while it works, and see that nothing it accepted is lost.

    python -m chaos [--jobs 200] [--seed NUMBER] [--keep]

Starts a service of its own on loopback, and submits jobs to it, each with a webhook to a receiver here that fails a
third of its calls. All the while one process after another is killed (SIGKILL): Whisper and Transcriber replica,
Ingress, the job manager, Serve's controller. Then, in the middle of the work, all of them at once; the service is
started again on the same folder and port. Clients send a call that failed again, a submit with the same
Idempotency-Key.

Good (exit code 0) is: every job accepted, one job for each submit, each with the text that the same recording has
undisturbed, by GET and in its webhook; every webhook signed, taken at last, under one id. Needs Linux and the
packages of `make install`; other services on this machine are left alone.
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

from chaos.run import Plan, Run
from chaos.service import adopt_orphans, kill_descendants
from chaos.checks import figures, problems

GRACE_S = 90
"""After its limit a run that hangs is ended by force."""

SHOWN = 30
"""Problems that are printed."""

_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)


def main() -> int:
    """0: nothing was lost; 1: something was."""
    options = _parser().parse_args()
    plan = Plan(options.jobs, options.stall, options.limit, options.seed)
    start = time.monotonic()

    def tell(line: str) -> None:
        print(f"{time.monotonic() - start:6.1f} s  {line}", flush=True)

    for number in _STOPS:
        signal.signal(number, _stop)
    signal.alarm(round(plan.limit_s) + GRACE_S)
    adopt_orphans()
    # Short, because the sockets of Ray under it may have 107 characters in all.
    folder = Path(tempfile.mkdtemp(prefix="chaos-", dir="/tmp"))
    tell(f"{plan.jobs} jobs, seed {plan.seed}, in {folder}")
    try:
        outcome = asyncio.run(Run(plan, folder, tell)())
    finally:
        kill_descendants()  # whatever has become of the event loop
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    for name, figure in figures(outcome).items():
        print(f"{name:>15}  {figure}")
    wrong = problems(outcome)
    if not wrong:
        print("PASSED: nothing was lost", flush=True)
        return 0
    print(f"FAILED (seed {plan.seed}), {len(wrong)} problems:", *wrong[:SHOWN], sep="\n  ", flush=True)
    return 1


def _stop(number: int, _: object) -> None:
    for each in _STOPS:  # once: nothing may break off the end
        signal.signal(each, signal.SIG_IGN)
    sys.exit(f"stopped by {signal.Signals(number).name}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=200, help="how many (200)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of all chance (another each time)")
    parser.add_argument("--limit", type=float, default=1200, help="seconds for all of it (1200)")
    parser.add_argument("--stall", type=float, default=150, help="seconds without a job's end before it gives up (150)")
    parser.add_argument("--keep", action="store_true", help="leave the folder: database, service.log and Ray's logs")
    return parser


if __name__ == "__main__":
    sys.exit(main())
