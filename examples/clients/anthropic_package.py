"""The `anthropic` package: whole and streamed answers, tools, counted tokens.

Reads OPENAI_BASE_URL (such as http://127.0.0.1:8000/v1) and OPENAI_API_KEY, as the other scripts
do; a program of one's own sets ANTHROPIC_BASE_URL (without /v1) and ANTHROPIC_API_KEY. MODEL is
optional.
"""

import os

from anthropic import Anthropic

MODEL = os.environ.get("MODEL", "production")
QUESTION = [{"role": "user", "content": "What is the refund policy?"}]
TOOL = {
    "name": "find_order",
    "description": "Look up what became of an order.",
    "input_schema": {
        "type": "object",
        "properties": {"state": {"enum": ["sent", "lost"]}},
        "required": ["state"],
        "additionalProperties": False,
    },
}


def whole(client: Anthropic) -> None:
    """One answer at once."""
    answer = client.messages.create(model=MODEL, messages=QUESTION, max_tokens=16)
    print("whole:", answer.model, answer.stop_reason, answer.usage.output_tokens > 0)


def streamed(client: Anthropic) -> None:
    """An answer piece by piece."""
    with client.messages.stream(model=MODEL, messages=QUESTION, max_tokens=16) as stream:
        pieces = list(stream.text_stream)
        message = stream.get_final_message()
    print("streamed:", len(pieces) > 1, message.content[0].text == "".join(pieces))


def tool(client: Anthropic) -> None:
    """A call that is demanded, and an answer after its result."""
    asked = client.messages.create(
        model=MODEL,
        messages=QUESTION,
        max_tokens=256,
        tools=[TOOL],
        tool_choice={"type": "tool", "name": "find_order"},
    )
    (call,) = (block for block in asked.content if block.type == "tool_use")
    print("tool call:", call.name, call.input)
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "It is in the post."}
    turns = [
        *QUESTION,
        {"role": "assistant", "content": [call.model_dump()]},
        {"role": "user", "content": [result]},
    ]
    after = client.messages.create(model=MODEL, messages=turns, max_tokens=16, tools=[TOOL])
    print("after the tool:", after.stop_reason)


def main() -> None:
    """Everything once."""
    address = os.environ["OPENAI_BASE_URL"].rstrip("/").removesuffix("/v1")
    client = Anthropic(base_url=address, api_key=os.environ.get("OPENAI_API_KEY", "none"))
    whole(client)
    streamed(client)
    tool(client)
    counted = client.messages.count_tokens(model=MODEL, messages=QUESTION)
    print("counted:", counted.input_tokens > 0)


if __name__ == "__main__":
    main()
