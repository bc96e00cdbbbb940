"""The webhook receiver of the fault test."""

import base64
import json
import random
from collections import Counter
from datetime import UTC, datetime

import aiohttp
import standardwebhooks

from chaos.receiver import FAILURE_SHARE, FAILURES, Receiver

SECRET, OTHER = ("whsec_" + base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))
BODY = json.dumps({"type": "job.completed", "data": {"id": "a", "transcript": {"text": "one"}}})


def headers(secret: str) -> dict[str, str]:
    now = datetime.now(UTC)
    signature = standardwebhooks.Webhook(secret).sign("msg_a", now, BODY)
    return {"webhook-id": "msg_a", "webhook-timestamp": str(int(now.timestamp())), "webhook-signature": signature}


async def call(url: str, secret: str) -> str:
    """Call the receiver with a timeout of half a second; return the answer or the error."""
    try:
        timeout = aiohttp.ClientTimeout(total=0.5)
        async with aiohttp.request("POST", url, data=BODY, headers=headers(secret), timeout=timeout) as response:
            return f"{response.status} {response.headers.get('Retry-After', '')}".strip()
    except (aiohttp.ClientError, TimeoutError) as error:
        return type(error).__name__


async def test_share_of_failures() -> None:
    receiver = Receiver(SECRET, 0.5, random.Random(0))
    async with receiver.listening():
        answers = Counter([await call(receiver.url, SECRET) for _ in range(90)])
    failed = 90 - answers["200"]
    assert abs(failed - 90 * FAILURE_SHARE) < 15
    assert set(answers) == {"200", "500", "503 1", "ServerDisconnectedError", "TimeoutError"}
    assert len(receiver.responses) == 1 + len(FAILURES)
    assert sum(event.acknowledged for event in receiver.events["a"]) == answers["200"] == receiver.responses["200"]
    assert {(event.id, event.type, event.text) for event in receiver.events["a"]} == {("msg_a", "job.completed", "one")}
    await receiver.wait_until_acknowledged("a")


async def test_invalid_signature_is_recorded() -> None:
    receiver = Receiver(SECRET, 0.5, random.Random(0))
    async with receiver.listening():
        assert await call(receiver.url, OTHER) == "400"
    assert (len(receiver.invalid_webhooks), receiver.events) == (1, {})
