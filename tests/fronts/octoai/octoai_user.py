"""A program as a user of `octoai-sdk` writes it: takes the service's URL, a recording's path and a key, prints JSON."""

import json
import sys
import time

from octoai.client import Client
from octoai.errors import OctoAIClientError
from octoai.types import Audio

url, path, token = sys.argv[1:]
client = Client(token=token)
audio = Audio.from_file(path)
base64 = audio.to_base64().decode()
inputs = {"language": "en", "task": "transcribe", "audio": base64}

health = client.health_check(f"{url}/healthcheck")
outputs = client.infer(f"{url}/infer", inputs)
of_model = client.infer(f"{url}/infer", {"audio": audio.model_dump()})

future = client.infer_async(f"{url}/infer", inputs)
before = client.get_future_result(future)
while not client.is_future_ready(future):
    time.sleep(0.05)
result = client.get_future_result(future)

try:
    client.infer(f"{url}/infer", inputs | {"task": "sing"})
except OctoAIClientError as error:
    refused = str(error)

print(
    json.dumps(
        {
            "health": health,
            "outputs": outputs,
            "of_model": of_model,
            "response_id": future.response_id,
            "before": before,
            "result": result,
            "refused": refused,
        }
    )
)
