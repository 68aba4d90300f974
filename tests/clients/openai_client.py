"""What users of the openai package do, and h11 as a second reader of HTTP, for scenarios.py."""

import asyncio
import json
import re
import socket

import h11
import openai

PROMPT = "In the beginning God created"
MESSAGES = [{"role": "user", "content": PROMPT}]


def completion_is_greedy_and_repeatable(client):
    a = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=12, temperature=0)
    b = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=12, temperature=0)
    assert a.choices[0].text == b.choices[0].text
    assert a.choices[0].finish_reason == "length"
    assert a.usage.completion_tokens == 12
    assert a.usage.total_tokens == a.usage.prompt_tokens + 12


def completion_streams_what_it_answers(client):
    whole = client.completions.create(model="tiny", prompt=PROMPT, max_tokens=20, seed=5, n=2)
    texts = ["", ""]
    usage = None
    for chunk in client.completions.create(
        model="tiny", prompt=PROMPT, max_tokens=20, seed=5, n=2, stream=True,
        stream_options={"include_usage": True},
    ):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [c.text for c in whole.choices]
    assert usage == whole.usage


def completion_takes_token_ids_and_lists(client):
    tokens = client.post("../tokenize", cast_to=object,
                         body={"prompt": PROMPT})["tokens"]
    by_text = client.completions.create(model="tiny", prompt=[PROMPT, PROMPT], temperature=0)
    by_ids = client.completions.create(model="tiny", prompt=[tokens, tokens], temperature=0)
    assert [c.text for c in by_text.choices] == [c.text for c in by_ids.choices]
    assert [c.index for c in by_ids.choices] == [0, 1]


def completion_has_logprobs(client):
    choice = client.completions.create(
        model="tiny", prompt=PROMPT, max_tokens=5, logprobs=2, temperature=0).choices[0]
    assert "".join(choice.logprobs.tokens) == choice.text
    assert len(choice.logprobs.top_logprobs) == 5
    assert all(p <= 0 for p in choice.logprobs.token_logprobs)


def completion_echoes_and_stops(client):
    choice = client.completions.create(
        model="tiny", prompt=PROMPT, max_tokens=40, temperature=0, echo=True, stop=["the"]).choices[0]
    assert choice.text.startswith(PROMPT)
    assert "the" not in choice.text[len(PROMPT):]
    assert choice.finish_reason == "stop"


def chat_answers_and_streams(client):
    whole = client.chat.completions.create(
        model="tiny", messages=MESSAGES, max_completion_tokens=16, seed=9)
    assert whole.choices[0].message.role == "assistant"
    text = ""
    roles = []
    for chunk in client.chat.completions.create(
        model="tiny", messages=MESSAGES, max_completion_tokens=16, seed=9, stream=True
    ):
        delta = chunk.choices[0].delta
        roles += [delta.role] if delta.role else []
        text += delta.content or ""
    assert text == whole.choices[0].message.content
    assert roles == ["assistant"]


def chat_has_logprobs(client):
    choice = client.chat.completions.create(
        model="tiny", messages=MESSAGES, max_tokens=4, logprobs=True, top_logprobs=3,
        temperature=0).choices[0]
    assert len(choice.logprobs.content) == 4
    for entry in choice.logprobs.content:
        assert len(entry.top_logprobs) == 3
        assert bytes(entry.bytes).decode() == entry.token


def chat_takes_extra_sampling_parameters(client):
    choice = client.chat.completions.create(
        model="tiny", messages=MESSAGES, max_tokens=8, temperature=1, logit_bias={"100": 100},
        extra_body={"top_k": 5, "min_p": 0.1, "min_tokens": 3, "ignore_eos": True}).choices[0]
    assert choice.finish_reason == "length"


def chat_takes_parts_of_text(client):
    parts = [{"type": "text", "text": "In the"}, {"type": "text", "text": "beginning"}]
    a = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": parts}], max_tokens=5, temperature=0)
    b = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "In the\nbeginning"}], max_tokens=5,
        temperature=0)
    assert a.choices[0].message.content == b.choices[0].message.content


PLACE = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Bethel", "Zion"]},
                   "days": {"type": "integer", "minimum": 1, "maximum": 7}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": PLACE}}]


def chat_answers_in_json(client):
    answer = client.chat.completions.create(
        model="tiny", messages=MESSAGES, max_tokens=80, seed=1,
        response_format={"type": "json_schema", "json_schema": {
            "name": "place", "strict": True, "schema": PLACE}}).choices[0]
    value = json.loads(answer.message.content)
    assert set(value) == {"city", "days"} and 1 <= value["days"] <= 7
    assert answer.finish_reason == "stop"
    for seed in range(8):
        answer = client.chat.completions.create(
            model="tiny", messages=MESSAGES, max_tokens=100, seed=seed,
            response_format={"type": "json_object"}).choices[0]
        if answer.finish_reason == "stop":
            assert isinstance(json.loads(answer.message.content), dict)


def completion_is_one_of_a_choice(client):
    choices = client.completions.create(
        model="tiny", prompt=PROMPT, n=8, seed=2,
        extra_body={"guided_choice": ["heaven", "earth", "heavens"]}).choices
    assert {c.text for c in choices} <= {"heaven", "earth", "heavens"}
    choice = client.completions.create(
        model="tiny", prompt=PROMPT, extra_body={"structured_outputs": {"regex": "[0-9]{4}"}})
    assert re.fullmatch("[0-9]{4}", choice.choices[0].text)


def chat_calls_tools(client):
    named = {"type": "function", "function": {"name": "weather"}}
    message = client.chat.completions.create(
        model="tiny", messages=MESSAGES, tools=TOOLS, tool_choice=named, seed=1).choices[0].message
    assert message.content is None
    call = message.tool_calls[0]
    assert call.type == "function" and call.function.name == "weather"
    assert set(json.loads(call.function.arguments)) == {"city", "days"}
    # Its answer goes on the conversation.
    more = MESSAGES + [message.model_dump(exclude_none=True),
                       {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
    plain = client.chat.completions.create(
        model="tiny", messages=more, tools=TOOLS, max_tokens=8).choices[0]
    assert plain.finish_reason in ("length", "stop") and not plain.message.tool_calls


def chat_streams_the_calls_that_it_answers(client):
    arguments = {"model": "tiny", "messages": MESSAGES, "tools": TOOLS, "seed": 4,
                 "tool_choice": {"type": "function", "function": {"name": "weather"}}}
    whole = client.chat.completions.create(**arguments).choices[0].message.tool_calls
    streamed = []
    for chunk in client.chat.completions.create(**arguments, stream=True):
        streamed += chunk.choices[0].delta.tool_calls or []
    assert [c.function.arguments for c in streamed] == [c.function.arguments for c in whole]
    assert [c.index for c in streamed] == [0]


def errors_are_the_packages_own(client):
    for error, arguments in [
        (openai.NotFoundError, {"model": "gpt-4"}),
        (openai.BadRequestError, {"max_tokens": 5000}),
        (openai.BadRequestError, {"temperature": 3}),
        (openai.BadRequestError, {"tools": [{"type": "function"}]}),
        (openai.BadRequestError, {"response_format": {"type": "json_schema", "json_schema": {
            "name": "x", "schema": {"not": {}}}}}),
        (openai.BadRequestError, {"audio": {"voice": "x", "format": "wav"}}),
    ]:
        try:
            client.chat.completions.create(**{"model": "tiny", "messages": MESSAGES, **arguments})
        except error as caught:
            assert caught.body["message"] and caught.body["type"] == "invalid_request_error"
            assert caught.param in (*arguments, "messages"), caught.param
        else:
            raise AssertionError(f"{arguments} was taken")


def keys_are_needed(client):
    for key in ("wrong", client.api_key + "x"):
        try:
            client.with_options(api_key=key).models.list()
        except openai.AuthenticationError as caught:
            assert client.api_key not in str(caught)
        else:
            raise AssertionError("a wrong key was taken")


def models_are_listed(client):
    models = client.models.list().data
    assert [m.id for m in models] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"


def a_stream_can_be_left(client):
    with client.completions.create(
        model="tiny", prompt=PROMPT, max_tokens=900, stream=True, extra_body={"ignore_eos": True}
    ) as stream:
        next(iter(stream))
    # The next answer is there at once: the server is not busy with the first one.
    client.completions.create(model="tiny", prompt=PROMPT, max_tokens=1)


def many_at_once_answer_as_one(client):
    url, key = str(client.base_url), client.api_key

    async def run():
        async with openai.AsyncOpenAI(base_url=url, api_key=key) as many:
            def ask(seed):
                return many.completions.create(
                    model="tiny", prompt=PROMPT, max_tokens=24, temperature=1, seed=seed)
            alone = [(await ask(seed)).choices[0].text for seed in range(4)]
            together = await asyncio.gather(*(ask(seed) for seed in [0, 1, 2, 3] * 8))
            assert [a.choices[0].text for a in together] == alone * 8

    asyncio.run(run())


def h11_reads_the_same_answers(client):
    """A strict reader of HTTP, three requests on one connection, the second one streamed."""
    host = client.base_url.host
    with socket.create_connection((host, client.base_url.port)) as sock:
        reader = h11.Connection(our_role=h11.CLIENT)
        for body in ({"prompt": "a"}, {"prompt": "a", "stream": True}, {"prompt": ""}):
            data = json.dumps(body).encode()
            headers = [("Host", host), ("Content-Type", "application/json"),
                       ("Authorization", f"Bearer {client.api_key}"), ("Content-Length", str(len(data)))]
            request = h11.Request(method="POST", target="/v1/completions", headers=headers)
            sock.sendall(reader.send(request) + reader.send(h11.Data(data=data)))
            sock.sendall(reader.send(h11.EndOfMessage()))
            text = b""
            while not isinstance(event := reader.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    reader.receive_data(sock.recv(4096))
                elif isinstance(event, h11.Data):
                    text += bytes(event.data)
            assert text.endswith(b"data: [DONE]\n\n") or json.loads(text)
            reader.start_next_cycle()


SCENARIOS = [
    completion_is_greedy_and_repeatable,
    completion_streams_what_it_answers,
    completion_takes_token_ids_and_lists,
    completion_has_logprobs,
    completion_echoes_and_stops,
    chat_answers_and_streams,
    chat_has_logprobs,
    chat_takes_extra_sampling_parameters,
    chat_takes_parts_of_text,
    chat_answers_in_json,
    completion_is_one_of_a_choice,
    chat_calls_tools,
    chat_streams_the_calls_that_it_answers,
    errors_are_the_packages_own,
    keys_are_needed,
    models_are_listed,
    a_stream_can_be_left,
    many_at_once_answer_as_one,
    h11_reads_the_same_answers,
]
