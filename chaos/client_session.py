"""A client's part in a run: submit a job, look after it, hear of its end, ask for the text."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from chaos.client import Client, Refused
from chaos.receiver import Receiver
from chaos.checks import Submission

POLL_S = 2.0
"""Between two times that a client asks for its job."""


async def see_through(
    client: Client, receiver: Receiver, submission: Submission, audio: bytes, open_jobs: asyncio.Semaphore
) -> None:
    """From the submit to the text; `submission` is told of it all."""
    with _refusals(submission):
        async with open_jobs:
            start = time.monotonic()
            submission.job_id = await client.submit(audio, f"job {submission.number}", receiver.url)
            submission.accepted_s = time.monotonic() - start
            submission.events = receiver.events[submission.job_id]
            taken = asyncio.create_task(receiver.taken(submission.job_id))
            try:
                while not (await asyncio.wait({taken}, timeout=POLL_S))[0]:
                    await client.job(submission.job_id)
            finally:
                taken.cancel()
        await _ask(client, submission)


async def look_back(client: Client, submission: Submission) -> None:
    """Ask for a job that nothing was heard of."""
    if submission.job_id is not None and submission.status is None:
        with _refusals(submission):
            await _ask(client, submission)


async def _ask(client: Client, submission: Submission) -> None:
    assert submission.job_id is not None
    job = await client.job(submission.job_id)
    if job["status"] == "succeeded":
        submission.text = await client.text(submission.job_id)
    submission.status, submission.attempts = job["status"], job["attempts"]
    submission.error = job["error"] and job["error"]["message"]


@contextmanager
def _refusals(submission: Submission) -> Iterator[None]:
    try:
        yield
    except Refused as error:
        submission.refused = str(error)
