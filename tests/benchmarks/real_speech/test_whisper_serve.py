"""This project as an engine of the benchmark, without Ray."""

from pathlib import Path

from benchmarks.real_speech.whisper_serve import in_process
from serve_app.models import model_source

DATA = Path(__file__).parents[2] / "data"


async def test_transcription_in_one_process() -> None:
    async with in_process(Path(model_source("whisper-nano")), 1, {"language": "en"}) as transcribe:
        transcript = await transcribe(DATA / "en.mp3", False)
        with_words = await transcribe(DATA / "en.mp3", True)
    assert transcript.segments
    assert not transcript.words
    assert transcript.language == "en"
    assert [word.text for word in with_words.words] == with_words.text.split()
