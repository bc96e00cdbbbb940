import asyncio
from datetime import datetime
from typing import Any

import httpx
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from serve_app.fronts.tiyaro.routes import select_model
from serve_app.schemas.request import TranscriptionOptions
from serve_app.settings import ServedModel, Tier
from tests.fronts.helpers import DATA, EN, serve
from tests.fronts.tiyaro.helpers import KEY, PATH, URL, error_message

# Greedy and in parallel, which is enough for most tests here.
QUICK = {"beam_size": 1, "condition_on_previous_text": False}


async def upload(client: httpx.AsyncClient, content: bytes) -> str:
    """Upload content and return its URL."""
    url: str = (await client.post("/v1/input/upload-url?extension=mp3", json={})).json()["uploadUrl"]["PUT"]
    assert (await client.put(url, content=content)).status_code == 200
    return url


async def wait_until_done(client: httpx.AsyncClient, url: str) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while (body := (await client.get(url)).json())["status"] in ("pending", "processing"):
            await asyncio.sleep(0.02)
    return body


class TestDocumentedProgram:
    @pytest.fixture
    def args(self) -> dict[str, Any]:
        return {"api_keys": [KEY]}

    @pytest.mark.slow
    async def test_upload_submit_poll(self, server_url: str) -> None:
        """Run the sample program of Tiyaro's documentation, with its options."""
        options = {
            **{"no_speech_threshold": 0.6, "patience": 1, "suppress_tokens": "-1", "compression_ratio_threshold": 2.4},
            **{"language": "en", "temperature_increment_on_fallback": 0.2, "length_penalty": None},
            **{"logprob_threshold": -1, "condition_on_previous_text": True, "initial_prompt": None},
            **{"task": "transcribe", "temperature": 0, "beam_size": 5, "best_of": 5},
        }
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(timeout=60) as client:
            answer = await client.post(f"{server_url}/v1/input/upload-url?extension=mp3", json={}, headers=headers)
            assert answer.status_code == 201, answer.text
            upload_url = answer.json()["uploadUrl"]["PUT"]
            answer = await client.put(upload_url, content=(DATA / "en.mp3").read_bytes())
            assert answer.status_code == 200, answer.text

            submit_url = f"{server_url}{PATH}?serviceTier=gpuflex"
            answer = await client.post(submit_url, json={"input": options, "URL": upload_url}, headers=headers)
            assert answer.status_code == 202, answer.text
            result_url = answer.json()["response"]["urls"]["GET"]
            while (answer := await client.get(result_url, headers=headers)).json()["status"] != "success":
                assert answer.status_code == 200
                assert answer.json()["status"] in ("accepted", "pending", "processing"), answer.text
                await asyncio.sleep(0.05)
            assert answer.json()["result"]["text"] == EN


async def test_submit_and_poll(client: httpx.AsyncClient) -> None:
    answer = await client.post(PATH, json={"input": QUICK, "URL": await upload(client, (DATA / "en.mp3").read_bytes())})
    assert answer.status_code == 202, answer.text
    response = answer.json()["response"]
    url = f"http://service/v1/async/requests/{response['id']}"
    assert response == {
        **{"id": response["id"], "model": "whisper-nano", "status": "accepted"},
        **{"acceptedAt": response["acceptedAt"], "startedAt": None, "completedAt": None},
        **{"result": None, "error": None, "urls": {"GET": url}},
    }
    done = await wait_until_done(client, url)
    assert set(done) == {"id", "model", "status", "acceptedAt", "startedAt", "completedAt", "result", "error"}
    assert (done["id"], done["status"], done["error"]) == (response["id"], "success", None)
    times = [datetime.fromisoformat(done[name]) for name in ("acceptedAt", "startedAt", "completedAt")]
    assert times == sorted(times)
    assert done["acceptedAt"] == response["acceptedAt"]
    assert (done["result"]["text"], done["result"]["language"]) == (EN, "en")
    assert set(done["result"]["segments"][0]) == {
        *("id", "seek", "start", "end", "text", "tokens", "temperature"),
        *("avg_logprob", "compression_ratio", "no_speech_prob"),
    }


@pytest.mark.parametrize("size", ["large", "medium", "small", "tiny"])
@pytest.mark.parametrize("tier", ["", "?serviceTier=cpuflex", "?serviceTier=gpuflex"])
async def test_all_sizes_and_tiers_use_the_only_model(client: httpx.AsyncClient, size: str, tier: str) -> None:
    answer = await client.post(f"/v1/async/ent/tiyarofs/1/openai/whisper-{size}{tier}", json={"URL": URL})
    assert (answer.status_code, answer.json()["response"]["model"]) == (202, "whisper-nano"), answer.text
    await client.delete(f"/v1/jobs/{answer.json()['response']['id']}")


SIZE_OF = {
    **{"whisper-large": "large", "openai/whisper-large-v3": "large", "/m/Whisper-Small": "small"},
    **{"whisper-small.en": None, "de": None, "tiny": None},
}

NAMES = st.sampled_from(list(SIZE_OF))

SERVED = st.lists(
    st.builds(ServedModel, id=NAMES, aliases=st.tuples(NAMES), tier=st.sampled_from([None, "cpuflex", "gpuflex"])),
    min_size=1,
)


@given(SERVED, st.sampled_from(["large", "medium", "small", "tiny"]), st.sampled_from(["cpuflex", "gpuflex"]))
def test_model_is_selected_by_size_then_tier(models: list[ServedModel], size: str, tier: Tier) -> None:
    of_size = [model for model in models if size in {SIZE_OF[name] for name in model.names}]
    of_tier = [model for model in models if model.tier == tier]
    of_size_and_tier = [model for model in of_size if model.tier == tier]
    (expected, *_) = (*of_size_and_tier[:1], *of_size[:1], *of_tier[:1], models[0])
    assert select_model(models, size, tier) is expected


async def test_upload_url_with_another_host(client: httpx.AsyncClient) -> None:
    url = httpx.URL(await upload(client, (DATA / "de.opus").read_bytes())).copy_with(host="elsewhere", port=81)
    answer = await client.post(PATH, json={"input": QUICK, "URL": str(url)})
    done = await wait_until_done(client, answer.json()["response"]["urls"]["GET"])
    assert (done["status"], done["result"]["language"]) == ("success", "de")
    again = await client.post(PATH, json={"URL": str(url)})
    assert (again.status_code, error_message(again).startswith("URL: ")) == (404, True)


async def test_other_urls_are_fetched(client: httpx.AsyncClient) -> None:
    async def audio(request: web.Request) -> web.FileResponse:
        assert request.query_string == "expires=1&signature=of-someone-else"
        return web.FileResponse(DATA / "fr.flac")

    server = await serve({"/v1/uploads/theirs": audio})
    url = f"{server.make_url('/v1/uploads/theirs')}?expires=1&signature=of-someone-else"
    answer = await client.post(PATH, json={"input": QUICK, "URL": url})
    done = await wait_until_done(client, answer.json()["response"]["urls"]["GET"])
    assert (done["status"], done["result"]["language"]) == ("success", "fr"), done
    await server.close()


async def test_processing_failed_and_cancelled_requests(client: httpx.AsyncClient) -> None:
    released = asyncio.Event()

    async def slow(_: web.Request) -> web.Response:
        await released.wait()
        return web.Response()

    server = await serve({"/slow": slow})

    async def submit(path: str) -> str:
        answer = await client.post(PATH, json={"URL": str(server.make_url(path))})
        url: str = answer.json()["response"]["urls"]["GET"]
        return url

    failing, waiting = await submit("/none.mp3"), await submit("/slow")
    done = await wait_until_done(client, failing)
    assert (done["status"], done["result"], done["error"]["code"]) == ("failed", None, 400)
    assert "404" in done["error"]["message"]
    async with asyncio.timeout(10):
        while (await client.get(waiting)).json()["status"] != "processing":
            await asyncio.sleep(0.01)
    await client.delete(f"/v1/jobs/{waiting.rpartition('/')[2]}")
    done = await wait_until_done(client, waiting)
    assert (done["status"], done["result"], done["error"]) == ("cancelled", None, None)
    released.set()
    await server.close()


async def options_of(client: httpx.AsyncClient, given: dict[str, Any]) -> TranscriptionOptions:
    """Return the options of the job that a request with these options creates."""
    answer = await client.post(PATH, json={"input": given, "URL": URL})
    assert answer.status_code == 202, answer.text
    job_id = answer.json()["response"]["id"]
    job = (await client.get(f"/v1/jobs/{job_id}")).json()
    await client.delete(f"/v1/jobs/{job_id}")
    return TranscriptionOptions(**job["options"])


WHISPERS_DEFAULTS = {"best_of": 5, "beam_size": 5, "condition_on_previous_text": True, "model": "whisper-nano"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {}),
        ({"language": "german", "task": "transcribe"}, {"language": "de"}),
        ({"best_of": 2, "beam_size": 3, "patience": 1.5}, {"best_of": 2, "beam_size": 3, "patience": 1.5}),
        ({"best_of": None, "beam_size": None, "patience": None}, {"best_of": 1, "beam_size": 1, "patience": 1.0}),
        ({"length_penalty": 0.5, "initial_prompt": "one"}, {"length_penalty": 0.5, "initial_prompt": "one"}),
        ({"suppress_tokens": "-1,3"}, {"suppress_tokens": (-1, 3)}),
        ({"suppress_tokens": [3]}, {"suppress_tokens": (3,)}),
        ({"suppress_tokens": None}, {"suppress_tokens": ()}),
        ({"condition_on_previous_text": False}, {"condition_on_previous_text": False}),
        ({"compression_ratio_threshold": None}, {"compression_ratio_threshold": None}),
        ({"logprob_threshold": -2, "no_speech_threshold": 0.5}, {"logprob_threshold": -2, "no_speech_threshold": 0.5}),
        ({"temperature_increment_on_fallback": None}, {"temperature_increment_on_fallback": None}),
        ({"temperature": 0.4}, {"temperature": 0.4}),
        ({"temperature": [0, 0.2, 0.4, 0.6000000000000001, 0.8, 1]}, {}),
        ({"temperature": [0.2, 0.6, 1]}, {"temperature": 0.2, "temperature_increment_on_fallback": 0.4}),
        ({"temperature": [0.5]}, {"temperature": 0.5, "temperature_increment_on_fallback": None}),
    ],
)
async def test_whisper_options(client: httpx.AsyncClient, given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert await options_of(client, given) == TranscriptionOptions(**WHISPERS_DEFAULTS | expected)


async def test_openapi_document(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    submit = document["paths"]["/v1/async/ent/tiyarofs/1/openai/whisper-{size}"]["post"]
    assert set(submit["responses"]) >= {"202", "400", "401", "404", "413", "415", "429"}
    assert submit["parameters"][0]["schema"]["enum"] == ["large", "medium", "small", "tiny"]
    options = document["components"]["schemas"]["WhisperInput"]["properties"]
    assert len(options) == 14
    assert (options["beam_size"]["default"], {"type": "null"} in options["beam_size"]["anyOf"]) == (5, True)
    assert {kind["type"] for kind in options["temperature"]["anyOf"]} == {"number", "array"}
