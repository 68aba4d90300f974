"""What people do with curl, for scenarios.py."""

import json
import subprocess


def curl(client, path, *arguments, body=None, key=None):
    """The status and the body of the answer."""
    base = str(client.base_url).removesuffix("/v1/")
    command = ["curl", "--silent", "--show-error", "--no-buffer", "--max-time", "60",
               "--write-out", "\n%{http_code}", "-H",
               f"Authorization: Bearer {client.api_key if key is None else key}", *arguments]
    if body is not None:
        text = body if isinstance(body, str) else json.dumps(body)
        command += ["--data-binary", "@-", "-H", "Content-Type: application/json"]
    else:
        text = ""
    out = subprocess.run(command + [base + path], input=text, capture_output=True, text=True,
                         check=True).stdout
    answer, _, status = out.rpartition("\n")
    return int(status), answer


BODY = {"model": "tiny", "prompt": "In the beginning", "max_tokens": 8, "temperature": 0}


def curl_completes(client):
    status, answer = curl(client, "/v1/completions", body=BODY)
    assert status == 200 and json.loads(answer)["choices"][0]["text"]


def curl_streams(client):
    status, answer = curl(client, "/v1/completions", body={**BODY, "stream": True})
    events = answer.strip().split("\n\n")
    assert status == 200 and events[-1] == "data: [DONE]"
    text = "".join(json.loads(e[6:])["choices"][0]["text"] for e in events[:-1])
    assert text == json.loads(curl(client, "/v1/completions", body=BODY)[1])["choices"][0]["text"]


def curl_chats(client):
    body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 4}
    status, answer = curl(client, "/v1/chat/completions", body=body)
    assert status == 200 and json.loads(answer)["choices"][0]["message"]["role"] == "assistant"


def curl_lists_models(client):
    assert json.loads(curl(client, "/v1/models")[1])["data"][0]["id"] == "tiny"


def curl_needs_a_key(client):
    for path in ("/v1/models", "/metrics", "/version", "/openapi.json"):
        status, answer = curl(client, path, key="wrong")
        assert status == 401 and json.loads(answer)["error"]["code"] == "invalid_api_key"


def curl_asks_how_the_server_is(client):
    for path in ("/health", "/ready", "/ping"):
        assert curl(client, path, key="wrong")[0] == 200


def curl_reads_metrics(client):
    status, page = curl(client, "/metrics")
    assert status == 200 and "vllm:generation_tokens_total{" in page


def curl_tokenises_and_back(client):
    tokens = json.loads(curl(client, "/tokenize", body={"prompt": "And God"})[1])["tokens"]
    text = json.loads(curl(client, "/detokenize", body={"tokens": tokens})[1])["prompt"]
    assert text.endswith("And God")


def curl_sees_what_is_wrong(client):
    status, answer = curl(client, "/v1/completions", body="{")
    assert status == 400 and json.loads(answer)["error"]["type"] == "invalid_request_error"
    status, _ = curl(client, "/v1/completions", "-H", "Content-Type: text/plain", "-d", "x")
    assert status == 415
    assert curl(client, "/nothing")[0] == 404
    assert curl(client, "/v1/completions")[0] == 405


def curl_waits_to_be_told_to_go_on(client):
    body = {**BODY, "prompt": "And " * 300, "user": "x" * 2_000_000}
    assert curl(client, "/v1/completions", "-H", "Expect: 100-continue", body=body)[0] == 200


def curl_speaks_http_1_0(client):
    assert curl(client, "/v1/completions", "--http1.0", body={**BODY, "stream": True})[0] == 200


def curl_asks_for_heads(client):
    status, head = curl(client, "/v1/models", "--head")
    assert status == 200 and "content-length:" in head.lower()


def curl_opens_the_page(client):
    status, page = curl(client, "/", key="")
    assert status == 200 and page.startswith("<!doctype html>")


def curl_forgets_prefixes(client):
    assert curl(client, "/reset_prefix_cache", "-X", "POST")[0] == 200


SCENARIOS = [
    curl_completes,
    curl_streams,
    curl_chats,
    curl_lists_models,
    curl_needs_a_key,
    curl_asks_how_the_server_is,
    curl_reads_metrics,
    curl_tokenises_and_back,
    curl_sees_what_is_wrong,
    curl_waits_to_be_told_to_go_on,
    curl_speaks_http_1_0,
    curl_asks_for_heads,
    curl_opens_the_page,
    curl_forgets_prefixes,
]
