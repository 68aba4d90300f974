"""What users of LangChain's OpenAI client do, for scenarios.py."""

import asyncio

import pydantic
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI, OpenAI

PROMPT = "In the beginning God created"


def chat_model(client, **changes):
    arguments = {"model": "tiny", "base_url": str(client.base_url), "api_key": client.api_key,
                 "max_tokens": 12, "seed": 3, "temperature": 0.5, "max_retries": 0}
    return ChatOpenAI(**{**arguments, **changes})


def completion_model(client, **changes):
    arguments = {"model": "tiny", "base_url": str(client.base_url), "api_key": client.api_key,
                 "max_tokens": 12, "temperature": 0, "max_retries": 0}
    return OpenAI(**{**arguments, **changes})


def langchain_chats(client):
    answer = chat_model(client).invoke(PROMPT)
    assert isinstance(answer, AIMessage) and answer.content
    assert answer.usage_metadata["output_tokens"] == 12
    assert answer.response_metadata["finish_reason"] == "length"


def langchain_streams(client):
    model = chat_model(client)
    assert "".join(c.content for c in model.stream(PROMPT)) == model.invoke(PROMPT).content


def langchain_asks_many_at_once(client):
    model = chat_model(client)
    answers = model.batch([PROMPT, "And God said", PROMPT])
    assert answers[0].content == answers[2].content != answers[1].content


def langchain_is_asynchronous(client):
    async def run():
        model = chat_model(client)
        streamed = "".join([c.content async for c in model.astream(PROMPT)])
        return streamed, (await model.ainvoke(PROMPT)).content

    streamed, whole = asyncio.run(run())
    assert streamed == whole


def langchain_keeps_a_conversation(client):
    model = chat_model(client)
    talk = [SystemMessage("Be brief."), HumanMessage(PROMPT)]
    answer = model.invoke(talk)
    assert model.invoke(talk + [answer, HumanMessage("More.")]).content


def langchain_chains(client):
    chain = (ChatPromptTemplate.from_messages([("user", "Tell me of {what}")])
             | chat_model(client) | StrOutputParser())
    assert isinstance(chain.invoke({"what": "ships"}), str)


def langchain_reads_structured_output(client):
    class Weather(pydantic.BaseModel):
        """The weather of a day."""
        sunny: bool

    model = chat_model(client, max_tokens=60).with_structured_output(Weather, method="json_schema")
    assert isinstance(model.invoke(PROMPT), Weather)


def langchain_calls_tools(client):
    class sail(pydantic.BaseModel):
        """Sail a ship."""
        fast: bool

    model = chat_model(client, max_tokens=60).bind_tools([sail], tool_choice="sail")
    call = model.invoke(PROMPT).tool_calls[0]
    assert call["name"] == "sail" and isinstance(call["args"]["fast"], bool)


def langchain_reads_logprobs(client):
    answer = chat_model(client).bind(logprobs=True, top_logprobs=2).invoke(PROMPT)
    assert len(answer.response_metadata["logprobs"]["content"]) == 12


def langchain_completes(client):
    model = completion_model(client)
    assert model.invoke(PROMPT) == model.batch([PROMPT])[0] == "".join(model.stream(PROMPT))


SCENARIOS = [
    langchain_chats,
    langchain_streams,
    langchain_asks_many_at_once,
    langchain_is_asynchronous,
    langchain_keeps_a_conversation,
    langchain_chains,
    langchain_reads_structured_output,
    langchain_calls_tools,
    langchain_reads_logprobs,
    langchain_completes,
]
