"""What users of the openai package do with one parameter or one call of it, for scenarios.py."""

import asyncio
import json

import openai
import pydantic

PROMPT = "In the beginning God created"
MESSAGES = [{"role": "user", "content": PROMPT}]


def complete(client, **changes):
    arguments = {"model": "tiny", "prompt": PROMPT, "max_tokens": 16, "temperature": 0}
    return client.completions.create(**{**arguments, **changes})


def text(client, **changes):
    return complete(client, **changes).choices[0].text


def chat(client, **changes):
    arguments = {"model": "tiny", "messages": MESSAGES, "max_tokens": 12, "seed": 3}
    return client.chat.completions.create(**{**arguments, **changes})


def a_seed_repeats_an_answer(client):
    answers = [text(client, temperature=1, seed=seed) for seed in (1, 1, 2)]
    assert answers[0] == answers[1] != answers[2]


def narrow_sampling_is_greedy(client):
    greedy = text(client)
    assert text(client, temperature=1, seed=1, extra_body={"top_k": 1}) == greedy
    assert text(client, temperature=1, seed=1, top_p=1e-6) == greedy
    assert text(client, temperature=1, seed=1, extra_body={"min_p": 1}) == greedy


def a_frequency_penalty_changes_an_answer(client):
    assert text(client, max_tokens=40) != text(client, max_tokens=40, frequency_penalty=2)


def a_presence_penalty_changes_an_answer(client):
    assert text(client, max_tokens=40) != text(client, max_tokens=40, presence_penalty=2)


def a_bias_decides(client):
    choice = complete(client, logit_bias={"100": 100}, logprobs=0, max_tokens=4).choices[0]
    assert len(set(choice.logprobs.tokens)) == 1


def several_stops_end_an_answer(client):
    choice = complete(client, max_tokens=60, stop=["zzz", " the"]).choices[0]
    assert choice.finish_reason == "stop" and " the" not in choice.text


def a_stop_can_be_part_of_the_answer(client):
    body = {"include_stop_str_in_output": True}
    assert text(client, max_tokens=60, stop=" the", extra_body=body).endswith(" the")


def stop_tokens_end_an_answer(client):
    token = client.post("../tokenize", cast_to=object,
                        body={"prompt": " the", "add_special_tokens": False})["tokens"][0]
    choice = complete(client, max_tokens=60, extra_body={"stop_token_ids": [token]}).choices[0]
    assert choice.finish_reason == "stop"
    assert text(client, max_tokens=60).startswith(choice.text + " the")


def a_prompt_is_scored(client):
    choice = complete(client, echo=True, logprobs=2, max_tokens=0).choices[0]
    assert choice.text == PROMPT
    assert choice.logprobs.token_logprobs[0] is None
    assert all(p <= 0 for p in choice.logprobs.token_logprobs[1:])
    assert "".join(choice.logprobs.tokens[1:]) == PROMPT


def a_scored_prompt_is_streamed(client):
    whole = complete(client, echo=True, logprobs=1, max_tokens=5).choices[0]
    tokens = []
    for chunk in complete(client, echo=True, logprobs=1, max_tokens=5, stream=True):
        if chunk.choices[0].logprobs:
            tokens += chunk.choices[0].logprobs.tokens
    assert tokens == whole.logprobs.tokens


def choices_differ_and_are_counted(client):
    answer = complete(client, temperature=1, seed=4, n=4)
    assert len({c.text for c in answer.choices}) > 1
    assert [c.index for c in answer.choices] == [0, 1, 2, 3]
    assert answer.usage.completion_tokens == 64


def a_system_message_changes_an_answer(client):
    system = [{"role": "system", "content": "Speak of ships."}]
    assert (chat(client).choices[0].message.content
            != chat(client, messages=system + MESSAGES).choices[0].message.content)


def a_chat_goes_on(client):
    message = chat(client).choices[0].message
    more = MESSAGES + [message.model_dump(exclude_none=True), {"role": "user", "content": "More."}]
    assert chat(client, messages=more).usage.prompt_tokens > chat(client).usage.prompt_tokens


def choices_of_a_chat_are_streamed(client):
    whole = chat(client, n=3)
    texts = ["", "", ""]
    reasons = [None] * 3
    for chunk in chat(client, n=3, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    assert texts == [c.message.content for c in whole.choices]
    assert reasons == [c.finish_reason for c in whole.choices]


def a_streamed_chat_tells_its_usage(client):
    *_, last = chat(client, stream=True, stream_options={"include_usage": True})
    assert last.choices == [] and last.usage == chat(client).usage


def logprobs_of_a_chat_are_streamed(client):
    whole = chat(client, logprobs=True, top_logprobs=1).choices[0].logprobs.content
    streamed = []
    for chunk in chat(client, logprobs=True, top_logprobs=1, stream=True):
        if chunk.choices and chunk.choices[0].logprobs:
            streamed += chunk.choices[0].logprobs.content
    assert [e.token for e in streamed] == [e.token for e in whole]


def a_raw_answer_has_its_id(client):
    raw = client.completions.with_raw_response.create(model="tiny", prompt=PROMPT, max_tokens=1)
    assert raw.headers["x-request-id"] == raw.parse().id


def an_unknown_field_is_named(client):
    raw = client.completions.with_raw_response.create(
        model="tiny", prompt=PROMPT, max_tokens=1, extra_body={"zeal": 1})
    assert raw.headers["x-fourfold-ignored-fields"] == "zeal"


def a_streaming_response_is_read_by_lines(client):
    with client.completions.with_streaming_response.create(
            model="tiny", prompt=PROMPT, max_tokens=3, stream=True) as response:
        lines = [line for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]" and json.loads(lines[0][6:])["object"] == "text_completion"




def an_answer_is_parsed(client):
    class Answer(pydantic.BaseModel):
        good: bool
        kind: str = pydantic.Field(pattern="^[a-z]{2,5}$")

    answer = client.chat.completions.parse(
        model="tiny", messages=MESSAGES, max_tokens=60, seed=1, response_format=Answer)
    parsed = answer.choices[0].message.parsed
    assert isinstance(parsed, Answer) and parsed.kind.isalpha()


def a_stream_helper_gathers_a_chat(client):
    with client.chat.completions.stream(
            model="tiny", messages=MESSAGES, max_tokens=12, seed=3,
            extra_body={"guided_choice": ["heaven", "earth"]}) as stream:
        deltas = "".join(e.delta for e in stream if e.type == "content.delta")
        final = stream.get_final_completion()
    assert deltas == final.choices[0].message.content and deltas in ("heaven", "earth")


def an_async_client_streams(client):
    async def run():
        async with openai.AsyncOpenAI(base_url=client.base_url, api_key=client.api_key) as other:
            out = ""
            async for chunk in await other.completions.create(
                    model="tiny", prompt=PROMPT, max_tokens=16, temperature=0, stream=True):
                out += chunk.choices[0].text
            return out

    assert asyncio.run(run()) == text(client)


def a_client_that_gives_up_harms_nobody(client):
    try:
        client.with_options(timeout=0.001).completions.create(
            model="tiny", prompt=PROMPT, max_tokens=900, extra_body={"ignore_eos": True})
        raise AssertionError("900 tokens in a millisecond")
    except openai.APITimeoutError:
        pass
    assert text(client) == text(client)


SCENARIOS = [
    a_seed_repeats_an_answer,
    narrow_sampling_is_greedy,
    a_frequency_penalty_changes_an_answer,
    a_presence_penalty_changes_an_answer,
    a_bias_decides,
    several_stops_end_an_answer,
    a_stop_can_be_part_of_the_answer,
    stop_tokens_end_an_answer,
    a_prompt_is_scored,
    a_scored_prompt_is_streamed,
    choices_differ_and_are_counted,
    a_system_message_changes_an_answer,
    a_chat_goes_on,
    choices_of_a_chat_are_streamed,
    a_streamed_chat_tells_its_usage,
    logprobs_of_a_chat_are_streamed,
    a_raw_answer_has_its_id,
    an_unknown_field_is_named,
    a_streaming_response_is_read_by_lines,
    an_answer_is_parsed,
    a_stream_helper_gathers_a_chat,
    an_async_client_streams,
    a_client_that_gives_up_harms_nobody,
]
