"""LangChain's ChatOpenAI: whole, streamed, batches, tools, structured outputs.

Reads OPENAI_BASE_URL (such as http://127.0.0.1:8000/v1) and OPENAI_API_KEY; MODEL is optional.
"""

import os
from typing import Literal

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, ConfigDict

QUESTION = "What is the refund policy?"


class Mood(BaseModel):
    """What a structured answer holds."""

    model_config = ConfigDict(extra="forbid")

    mood: Literal["good", "bad"]
    is_sure: bool


@tool
def find_order(state: Literal["sent", "lost"]) -> str:
    """Look up what became of an order."""
    return f"{state}, 2 days ago"


def main() -> None:
    """Do each once."""
    chat = ChatOpenAI(model=os.environ.get("MODEL", "production"), max_completion_tokens=128)
    whole = chat.invoke(QUESTION)
    print("whole:", whole.response_metadata["model_name"], whole.usage_metadata["output_tokens"] > 0)
    pieces = [piece.content for piece in chat.stream(QUESTION)]
    print("streamed:", len([piece for piece in pieces if piece]) > 1)
    print("batch:", len(chat.batch([QUESTION, "How many days has a week?"])))
    choosing = chat.bind_tools([find_order], tool_choice="required", strict=True)
    asked = choosing.invoke(QUESTION)
    (call, *_) = asked.tool_calls
    print("tool call:", call["name"], call["args"])
    result = ToolMessage(find_order.invoke(call["args"]), tool_call_id=call["id"])
    after = chat.bind_tools([find_order], tool_choice="none").invoke(
        [HumanMessage(QUESTION), asked, result]
    )
    print("after the tool:", after.response_metadata["finish_reason"])
    print("parsed:", chat.with_structured_output(Mood).invoke(QUESTION))


if __name__ == "__main__":
    main()
