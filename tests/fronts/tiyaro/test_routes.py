import asyncio
import json
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
from tests.fronts.native.test_jobs import DATA, EN, serve

KEY = "one key"
PATH = "/v1/async/ent/tiyarofs/1/openai/whisper-large"
URL = "http://x/a"

# Greedy and in parallel: what most tests here need no more than.
QUICK = {"beam_size": 1, "condition_on_previous_text": False}


def message(answer: httpx.Response) -> str:
    """The message of an error, whose shape must be right."""
    assert set(answer.json()) == {"code", "message"}, answer.text
    assert answer.json()["code"] == answer.status_code
    text: str = answer.json()["message"]
    return text


async def brought(client: httpx.AsyncClient, content: bytes) -> str:
    """An upload URL to which this was put."""
    url: str = (await client.post("/v1/input/upload-url?extension=mp3", json={})).json()["uploadUrl"]["PUT"]
    assert (await client.put(url, content=content)).status_code == 200
    return url


async def finished(client: httpx.AsyncClient, url: str) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while (body := (await client.get(url)).json())["status"] in ("pending", "processing"):
            await asyncio.sleep(0.02)
    return body


class TestAsItsDocumentationDoes:
    @pytest.fixture
    def args(self) -> dict[str, Any]:
        return {"api_keys": [KEY]}

    async def test_upload_submit_poll(self, server_url: str) -> None:
        """The sample program of Tiyaro's documentation, its options too."""
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


async def test_what_a_submit_and_a_poll_answer(client: httpx.AsyncClient) -> None:
    answer = await client.post(
        PATH, json={"input": QUICK, "URL": await brought(client, (DATA / "en.mp3").read_bytes())}
    )
    assert answer.status_code == 202, answer.text
    submitted = answer.json()["response"]
    url = f"http://service/v1/async/requests/{submitted['id']}"
    assert submitted == {
        **{"id": submitted["id"], "model": "whisper-nano", "status": "accepted"},
        **{"acceptedAt": submitted["acceptedAt"], "startedAt": None, "completedAt": None},
        **{"result": None, "error": None, "urls": {"GET": url}},
    }
    done = await finished(client, url)
    assert set(done) == {"id", "model", "status", "acceptedAt", "startedAt", "completedAt", "result", "error"}
    assert (done["id"], done["status"], done["error"]) == (submitted["id"], "success", None)
    times = [datetime.fromisoformat(done[name]) for name in ("acceptedAt", "startedAt", "completedAt")]
    assert times == sorted(times)
    assert done["acceptedAt"] == submitted["acceptedAt"]
    assert (done["result"]["text"], done["result"]["language"]) == (EN, "en")
    assert set(done["result"]["segments"][0]) == {
        *("id", "seek", "start", "end", "text", "tokens", "temperature"),
        *("avg_logprob", "compression_ratio", "no_speech_prob"),
    }


@pytest.mark.parametrize("size", ["large", "medium", "small", "tiny"])
@pytest.mark.parametrize("tier", ["", "?serviceTier=cpuflex", "?serviceTier=gpuflex"])
async def test_every_size_and_tier_leads_to_the_configured_model(
    client: httpx.AsyncClient, size: str, tier: str
) -> None:
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
def test_a_path_leads_to_the_first_model_of_its_size_and_tier_or_else_of_one_of_them(
    models: list[ServedModel], size: str, tier: Tier
) -> None:
    of_size = [model for model in models if size in {SIZE_OF[name] for name in model.names}]
    of_tier = [model for model in models if model.tier == tier]
    of_both = [model for model in of_size if model.tier == tier]
    (expected, *_) = (*of_both[:1], *of_size[:1], *of_tier[:1], models[0])
    assert select_model(models, size, tier) is expected


async def test_an_upload_is_known_by_its_signature_under_any_name(client: httpx.AsyncClient) -> None:
    url = httpx.URL(await brought(client, (DATA / "de.opus").read_bytes())).copy_with(host="elsewhere", port=81)
    answer = await client.post(PATH, json={"input": QUICK, "URL": str(url)})
    done = await finished(client, answer.json()["response"]["urls"]["GET"])
    assert (done["status"], done["result"]["language"]) == ("success", "de")
    again = await client.post(PATH, json={"URL": str(url)})
    assert (again.status_code, message(again).startswith("URL: ")) == (404, True)


async def test_another_url_is_fetched(client: httpx.AsyncClient) -> None:
    async def audio(request: web.Request) -> web.FileResponse:
        assert request.query_string == "expires=1&signature=of-someone-else"
        return web.FileResponse(DATA / "fr.flac")

    server = await serve({"/v1/uploads/theirs": audio})
    url = f"{server.make_url('/v1/uploads/theirs')}?expires=1&signature=of-someone-else"
    answer = await client.post(PATH, json={"input": QUICK, "URL": url})
    done = await finished(client, answer.json()["response"]["urls"]["GET"])
    assert (done["status"], done["result"]["language"]) == ("success", "fr"), done
    await server.close()


async def test_processing_failed_and_cancelled(client: httpx.AsyncClient) -> None:
    released = asyncio.Event()

    async def slow(_: web.Request) -> web.Response:
        await released.wait()
        return web.Response()

    server = await serve({"/slow": slow})

    async def submitted(path: str) -> str:
        answer = await client.post(PATH, json={"URL": str(server.make_url(path))})
        url: str = answer.json()["response"]["urls"]["GET"]
        return url

    failing, waiting = await submitted("/none.mp3"), await submitted("/slow")
    done = await finished(client, failing)
    assert (done["status"], done["result"], done["error"]["code"]) == ("failed", None, 400)
    assert "404" in done["error"]["message"]
    async with asyncio.timeout(10):
        while (await client.get(waiting)).json()["status"] != "processing":
            await asyncio.sleep(0.01)
    await client.delete(f"/v1/jobs/{waiting.rpartition('/')[2]}")
    done = await finished(client, waiting)
    assert (done["status"], done["result"], done["error"]) == ("cancelled", None, None)
    released.set()
    await server.close()


async def options_of(client: httpx.AsyncClient, given: dict[str, Any]) -> TranscriptionOptions:
    """The options that the job has for these."""
    answer = await client.post(PATH, json={"input": given, "URL": URL})
    assert answer.status_code == 202, answer.text
    job_id = answer.json()["response"]["id"]
    job = (await client.get(f"/v1/jobs/{job_id}")).json()
    await client.delete(f"/v1/jobs/{job_id}")
    return TranscriptionOptions(**job["options"])


WHISPERS_DEFAULTS = {"best_of": 5, "beam_size": 5, "condition_on_previous_text": True, "model": "whisper-nano"}


@pytest.mark.parametrize(
    ("given", "meant"),
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
async def test_whispers_options_are_the_jobs(
    client: httpx.AsyncClient, given: dict[str, Any], meant: dict[str, Any]
) -> None:
    assert await options_of(client, given) == TranscriptionOptions(**WHISPERS_DEFAULTS | meant)


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({}, 400, "URL"),
        ({"url": URL}, 400, "URL"),
        ({"URL": None}, 400, "URL"),
        ({"URL": 7}, 400, "URL"),
        ({"URL": ""}, 400, "URL"),
        ({"URL": "\ud800"}, 400, "URL"),
        ({"URL": "ftp://x/a"}, 400, "URL"),
        ({"URL": "http://["}, 400, "URL"),
        ({"URL": "http://x/" + "a" * 9000}, 400, "URL"),
        ({"URL": URL, "input": None}, 400, "input"),
        ({"URL": URL, "input": "loud"}, 400, "input"),
        ({"URL": URL, "webhook": "http://x"}, 400, "webhook"),
        ({"URL": URL, "input": {"speed": 2}}, 400, "speed"),
        ({"URL": URL, "input": {"logprobs": True}}, 400, "logprobs"),
        ({"URL": URL, "input": {"task": "sing"}}, 400, "task"),
        ({"URL": URL, "input": {"language": "klingon"}}, 400, "language"),
        ({"URL": URL, "input": {"language": "ja"}}, 400, "language"),
        ({"URL": URL, "input": {"temperature": -1}}, 400, "temperature"),
        ({"URL": URL, "input": {"temperature": None}}, 400, "temperature"),
        ({"URL": URL, "input": {"temperature": []}}, 400, "temperature"),
        ({"URL": URL, "input": {"temperature": [0, 0.3]}}, 400, "temperature"),
        ({"URL": URL, "input": {"temperature": [0, "hot"]}}, 400, "temperature"),
        ({"URL": URL, "input": {"temperature": [0, 1e-300, 1]}}, 400, "temperature"),
        ({"URL": URL, "input": {"temperature": [0, 10**400]}}, 400, "temperature"),
        ({"URL": URL, "input": {"temperature": [float("nan"), 1]}}, 400, "temperature"),
        (
            {"URL": URL, "input": {"temperature": [0, 1], "temperature_increment_on_fallback": 1}},
            400,
            "temperature_increment_on_fallback",
        ),
        ({"URL": URL, "input": {"best_of": 99}}, 400, "best_of"),
        ({"URL": URL, "input": {"beam_size": 2.5}}, 400, "beam_size"),
        ({"URL": URL, "input": {"patience": 0}}, 400, "patience"),
        ({"URL": URL, "input": {"suppress_tokens": "a"}}, 400, "suppress_tokens"),
        ({"URL": URL, "input": {"suppress_tokens": [10**9]}}, 400, "suppress_tokens"),
        ({"URL": URL, "input": {"no_speech_threshold": 2}}, 400, "no_speech_threshold"),
    ],
)
async def test_bad_bodies_name_their_field(client: httpx.AsyncClient, body: Any, status: int, field: str) -> None:
    answer = await client.post(PATH, content=json.dumps(body), headers={"content-type": "application/json"})
    assert (answer.status_code, field in message(answer)) == (status, True), answer.text


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b"null", b"[" * 5000, b"9" * 5000])
async def test_bodies_that_are_no_request_at_all(client: httpx.AsyncClient, raw: bytes) -> None:
    answer = await client.post(PATH, content=raw, headers={"content-type": "application/json"})
    assert (answer.status_code, bool(message(answer))) == (400, True), answer.text


@pytest.mark.parametrize(
    ("method", "path", "status", "word"),
    [
        ("POST", "/v1/async/ent/tiyarofs/1/openai/whisper-base", 404, "whisper-base"),
        ("POST", "/v1/async/ent/tiyarofs/2/openai/whisper-large", 404, "no POST"),
        ("POST", f"{PATH}?serviceTier=tpu", 400, "serviceTier"),
        ("POST", f"{PATH}?tier=gpuflex", 400, "tier"),
        ("GET", PATH, 405, ""),
        ("GET", "/v1/async/requests/none", 404, "none"),
        ("POST", "/v1/input/upload-url?extension=../mp3", 400, "extension"),
        ("POST", "/v1/input/upload-url?extension=", 400, "extension"),
        ("POST", "/v1/input/upload-url?ext=mp3", 400, "ext"),
        ("GET", "/v1/input/upload-url", 405, ""),
    ],
)
async def test_bad_paths_and_queries(client: httpx.AsyncClient, method: str, path: str, status: int, word: str) -> None:
    answer = await client.request(method, path, json={"URL": URL} if "async" in path else {})
    assert (answer.status_code, word in message(answer)) == (status, True), answer.text


async def test_what_an_upload_url_cannot_be_asked_for(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/input/upload-url?extension=mp3", json={"name": "a"})
    assert (answer.status_code, "name" in message(answer)) == (400, True)
    assert (await client.post("/v1/input/upload-url")).status_code == 201


async def test_an_upload_that_is_not_there(client: httpx.AsyncClient) -> None:
    url = (await client.post("/v1/input/upload-url?extension=mp3", json={})).json()["uploadUrl"]["PUT"]
    answer = await client.post(PATH, json={"URL": url})
    assert (answer.status_code, message(answer).startswith("URL: there is no finished upload")) == (404, True), (
        answer.text
    )


async def test_what_is_not_json(client: httpx.AsyncClient) -> None:
    answer = await client.post(PATH, data={"URL": URL})
    assert (answer.status_code, "application/json" in message(answer)) == (415, True)


async def test_the_openapi_document_is_complete(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    submit = document["paths"]["/v1/async/ent/tiyarofs/1/openai/whisper-{size}"]["post"]
    assert set(submit["responses"]) >= {"202", "400", "401", "404", "413", "415", "429"}
    assert submit["parameters"][0]["schema"]["enum"] == ["large", "medium", "small", "tiny"]
    options = document["components"]["schemas"]["WhisperInput"]["properties"]
    assert len(options) == 14
    assert (options["beam_size"]["default"], {"type": "null"} in options["beam_size"]["anyOf"]) == (5, True)
    assert {kind["type"] for kind in options["temperature"]["anyOf"]} == {"number", "array"}


class TestLimits:
    @pytest.fixture
    def args(self) -> dict[str, Any]:
        return {
            **{"api_keys": [KEY], "limits": {"max_upload_bytes": 1000, "max_queued_jobs": 1}},
            **{"jobs": {"max_running": 1}, "network": {"allow_private_addresses": True}},
        }

    async def test_no_key_too_much_and_a_full_queue_are_refused_in_the_same_shape(
        self, client: httpx.AsyncClient
    ) -> None:
        for path in ("/v1/input/upload-url?extension=mp3", PATH):
            answer = await client.post(path, json={})
            assert (answer.status_code, "API key" in message(answer)) == (401, True)
            assert answer.headers["www-authenticate"] == "Bearer"
        client.headers["Authorization"] = f"Bearer {KEY}"
        answer = await client.post(PATH, json={"URL": "a" * 1000})
        assert (answer.status_code, "1000" in message(answer)) == (413, True)

        released = asyncio.Event()

        async def slow(_: web.Request) -> web.Response:
            await released.wait()
            return web.Response()

        server = await serve({"/slow": slow})
        body = {"URL": str(server.make_url("/slow"))}
        url = (await client.post(PATH, json=body)).json()["response"]["urls"]["GET"]
        async with asyncio.timeout(10):
            while (await client.get(url)).json()["status"] != "processing":
                await asyncio.sleep(0.01)
        assert (await client.post(PATH, json=body)).status_code == 202
        answer = await client.post(PATH, json=body)
        assert (answer.status_code, "the queue is full" in message(answer)) == (429, True)
        assert answer.headers["retry-after"]
        released.set()
        await server.close()
