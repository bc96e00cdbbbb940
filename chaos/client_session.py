"""A client's part in a run: submit a job, poll it, wait for its webhook, fetch the text."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from chaos.checks import Submission
from chaos.client import Client, Refused
from chaos.receiver import Receiver

POLL_S = 2.0
"""Seconds between polls of a job."""


async def run_submission(
    client: Client, receiver: Receiver, submission: Submission, audio: bytes, open_jobs: asyncio.Semaphore
) -> None:
    """Submit a job and fetch its text when its webhook has arrived; the results are written to `submission`."""
    with _record_refusals(submission):
        async with open_jobs:
            start = time.monotonic()
            submission.job_id = await client.submit(audio, f"job {submission.number}", receiver.url)
            submission.accepted_s = time.monotonic() - start
            submission.events = receiver.events[submission.job_id]
            acknowledged = asyncio.create_task(receiver.wait_until_acknowledged(submission.job_id))
            try:
                while not (await asyncio.wait({acknowledged}, timeout=POLL_S))[0]:
                    await client.job(submission.job_id)
            finally:
                acknowledged.cancel()
        await _fetch_result(client, submission)


async def recheck(client: Client, submission: Submission) -> None:
    """Fetch a job whose webhook did not arrive."""
    if submission.job_id is not None and submission.status is None:
        with _record_refusals(submission):
            await _fetch_result(client, submission)


async def _fetch_result(client: Client, submission: Submission) -> None:
    assert submission.job_id is not None
    job = await client.job(submission.job_id)
    if job["status"] == "succeeded":
        submission.text = await client.text(submission.job_id)
    submission.status, submission.attempts = job["status"], job["attempts"]
    submission.error = job["error"] and job["error"]["message"]


@contextmanager
def _record_refusals(submission: Submission) -> Iterator[None]:
    try:
        yield
    except Refused as error:
        submission.refused = str(error)
