"""`make demo`: start the service, transcribe the sample twice over HTTP, stop.

First as OpenAI's clients do, then as a job whose webhook is received here and whose text is fetched as subtitles; if
`STT_DIARIZATION__PIPELINE` is set, the subtitles show who spoke. The sample's sentences are known, so the demo prints
how many words are correct.
"""

import argparse
import asyncio
import os
import re
import sys
import time
from difflib import SequenceMatcher
from pathlib import Path
from textwrap import indent, shorten
from typing import Any

import aiohttp
from aiohttp import web

SAMPLE = Path(__file__).parent / "sample.mp3"
SENTENCES = SAMPLE.with_suffix(".txt")
MODEL = "whisper-1"
DIARIZATION = "STT_DIARIZATION__PIPELINE"
START_TIMEOUT_S = 1200  # the first start downloads the model
WEBHOOK_TIMEOUT_S = 300


async def main() -> int:
    """Run the demo; return 0 if both transcripts arrived."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="configs/local.yaml")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--data-dir", default="data")
    options = parser.parse_args()
    base = f"http://127.0.0.1:{options.port}"
    if await is_port_open(options.port):
        raise SystemExit(f"port {options.port} is in use: choose another one with PORT=…")
    service = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "deployments", "--config", options.config),
        *("--port", str(options.port), "--data-dir", options.data_dir),
    )
    try:
        async with aiohttp.ClientSession(base) as http:
            await wait_until_ready(http, service)
            await print_model_warning(http)
            await transcribe_synchronously(http)
            await transcribe_as_job(http)
    finally:
        if service.returncode is None:
            service.terminate()
        await service.wait()
    speakers = f"  {DIARIZATION}=pyannote-3.0-campplus make demo   also who spoke (installs 0.4 GB, downloads 81 MB)\n"
    print(
        "\nDone. Where to look next:\n"
        "  make serve          the same service, until Ctrl-C\n"
        f"{'' if os.environ.get(DIARIZATION) else speakers}"
        f"  {base}/docs   every path, to try it out\n"
        f"  curl {base}/v1/audio/transcriptions -F model={MODEL} -F file=@{SAMPLE}\n"
        "  README.md           a real model, a GPU cluster"
    )
    return 0


async def is_port_open(port: int) -> bool:
    """Return whether a local port accepts connections."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def wait_until_ready(http: aiohttp.ClientSession, service: asyncio.subprocess.Process) -> None:
    """Return when `/readyz` answers 200; SystemExit if the service ends or takes too long."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if service.returncode is not None:
            raise SystemExit(f"the service ended with code {service.returncode} before it was ready")
        try:
            async with http.get("/readyz") as answer:
                if answer.status == 200:
                    return
        except aiohttp.ClientConnectionError:
            pass
        await asyncio.sleep(0.5)
    raise SystemExit(f"the service was not ready within {START_TIMEOUT_S} s")


async def print_model_warning(http: aiohttp.ClientSession) -> None:
    """Print the warning of the served model, if it has one."""
    async with http.get(f"/v1/models/{MODEL}", raise_for_status=True) as answer:
        if warning := (await answer.json()).get("warning"):
            print(f"\nWarning: {warning}", flush=True)


async def transcribe_synchronously(http: aiohttp.ClientSession) -> None:
    """POST the file and wait for the text."""
    print(f"\n1. POST /v1/audio/transcriptions with {SAMPLE.name}", flush=True)
    start = time.perf_counter()
    with SAMPLE.open("rb") as file:
        form = {"file": file, "model": MODEL, "response_format": "verbose_json"}
        async with http.post("/v1/audio/transcriptions", data=form, raise_for_status=True) as answer:
            transcript = await answer.json()
    took = time.perf_counter() - start
    for segment in transcript["segments"]:
        print(f"   {segment['start']:6.2f} – {segment['end']:6.2f} s {segment['text'].strip()}")
    duration = transcript["duration"]
    print(f"   {duration:.1f} s of audio in {took:.2f} s ({duration / took:.1f} × real time)")
    print(f"   {compare_with_sample(transcript['text'])}", flush=True)


def compare_with_sample(text: str) -> str:
    """Describe the differences of a transcript from the sample's text, ignoring case and punctuation."""
    expected, actual = (re.findall(r"\w+", words.lower()) for words in (SENTENCES.read_text(encoding="utf-8"), text))
    changes = [
        change
        for change in SequenceMatcher(None, expected, actual, autojunk=False).get_opcodes()
        if change[0] != "equal"
    ]
    if not changes:
        return f"All {len(expected)} words are correct."
    wrong = sum(max(b - a, d - c) for _, a, b, c, d in changes)
    _, a, b, c, d = changes[0]
    was, became = (shorten(" ".join(words), 60, placeholder=" …") for words in (expected[a:b], actual[c:d]))
    return f"Words that differ: {wrong} of {len(expected)}; the first: {was!r} became {became!r}."


async def transcribe_as_job(http: aiohttp.ClientSession) -> None:
    """Submit a job, wait for its webhook, fetch the text as subtitles."""
    received: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def receive(request: web.Request) -> web.Response:
        await received.put(await request.json())
        return web.Response()

    receiver = web.Application()
    receiver.router.add_post("/done", receive)
    runner = web.AppRunner(receiver)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    hook = f"{site.name}/done"
    try:
        print(f"\n2. POST /v1/jobs with {SAMPLE.name} and a webhook to {hook}", flush=True)
        start = time.perf_counter()
        with SAMPLE.open("rb") as file:
            form = {"file": file, "timestamps": "word", "webhook": f'{{"url": "{hook}"}}'}
            if os.environ.get(DIARIZATION):
                form["diarization"] = "{}"
            async with http.post("/v1/jobs", data=form, raise_for_status=True) as answer:
                job = await answer.json()
        print(f"   accepted in {time.perf_counter() - start:.2f} s: job {job['id']} is {job['status']}", flush=True)
        try:
            event = await asyncio.wait_for(received.get(), WEBHOOK_TIMEOUT_S)
        except TimeoutError:
            raise SystemExit(f"no webhook arrived within {WEBHOOK_TIMEOUT_S} s") from None
        print(f"   webhook after {time.perf_counter() - start:.2f} s: {event['type']}")
        path = f"/v1/jobs/{job['id']}/transcript?format=srt"
        print(f"   GET {path}\n")
        async with http.get(path, raise_for_status=True) as answer:
            print(indent((await answer.text()).strip(), "   "))
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
