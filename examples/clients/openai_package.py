"""The `openai` package: whole and streamed answers, sync and async, tools, structured outputs.

Reads OPENAI_BASE_URL (such as http://127.0.0.1:8000/v1) and OPENAI_API_KEY; MODEL is optional.
"""

import asyncio
import json
import os
from typing import Literal

from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

MODEL = os.environ.get("MODEL", "production")
QUESTION = [{"role": "user", "content": "What is the refund policy?"}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "find_order",
            "description": "Look up what became of an order.",
            "parameters": {
                "type": "object",
                "properties": {"state": {"enum": ["sent", "lost"]}},
                "required": ["state"],
                "additionalProperties": False,
            },
        },
    }
]


class Mood(BaseModel):
    """What a structured answer holds."""

    mood: Literal["good", "bad"]
    is_sure: bool


def whole(client: OpenAI) -> None:
    """One answer at once."""
    answer = client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=16)
    print("whole:", answer.model, answer.usage.completion_tokens, answer.choices[0].finish_reason)


def streamed(client: OpenAI) -> None:
    """An answer piece by piece, with token counts at the end."""
    chunks = client.chat.completions.create(
        model=MODEL,
        messages=QUESTION,
        max_tokens=16,
        stream=True,
        stream_options={"include_usage": True},
    )
    pieces, usage = [], None
    for chunk in chunks:
        pieces += [choice.delta.content for choice in chunk.choices if choice.delta.content]
        usage = chunk.usage or usage
    print("streamed:", len(pieces) > 1, usage.completion_tokens)


async def several(client: AsyncOpenAI) -> None:
    """Four answers at once from one program."""
    asked = (
        client.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=8, seed=seed)
        for seed in range(4)
    )
    answers = await asyncio.gather(*asked)
    print("async:", len(answers), {answer.model for answer in answers})
    await client.close()


def tools(client: OpenAI) -> None:
    """The model calls a function, is given its result, and answers."""
    asked = client.chat.completions.create(
        model=MODEL, messages=QUESTION, tools=TOOLS, tool_choice="required", max_tokens=128
    )
    (call, *_) = asked.choices[0].message.tool_calls
    print("tool call:", call.function.name, json.loads(call.function.arguments))
    result = {"role": "tool", "tool_call_id": call.id, "content": '{"days": 2}'}
    turns = [*QUESTION, asked.choices[0].message.model_dump(exclude_none=True), result]
    answer = client.chat.completions.create(
        model=MODEL, messages=turns, tools=TOOLS, tool_choice="none", max_tokens=16
    )
    print("after the tool:", answer.choices[0].finish_reason)


def streamed_tools(client: OpenAI) -> None:
    """The same call, streamed: the package joins the pieces."""
    with client.chat.completions.stream(
        model=MODEL, messages=QUESTION, tools=TOOLS, tool_choice="required", max_tokens=128
    ) as stream:
        for _ in stream:
            pass
        (call, *_) = stream.get_final_completion().choices[0].message.tool_calls
    print("streamed call:", call.function.name, json.loads(call.function.arguments))


def structured(client: OpenAI) -> None:
    """An answer that is a value of a class."""
    answer = client.chat.completions.parse(
        model=MODEL, messages=QUESTION, response_format=Mood, max_tokens=128
    )
    print("parsed:", answer.choices[0].message.parsed)


def main() -> None:
    """Do each once."""
    client = OpenAI()
    print("models:", sorted(model.id for model in client.models.list()))
    whole(client)
    streamed(client)
    asyncio.run(several(AsyncOpenAI()))
    tools(client)
    streamed_tools(client)
    structured(client)


if __name__ == "__main__":
    main()
