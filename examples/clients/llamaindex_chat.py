"""LlamaIndex's OpenAILike: whole, streamed, async, completion of a text, a tool call.

Reads OPENAI_BASE_URL (such as http://127.0.0.1:8000/v1) and OPENAI_API_KEY; MODEL is optional.
"""

import asyncio
import os
from typing import Literal

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike

QUESTION = [ChatMessage(role="user", content="What is the refund policy?")]


def find_order(state: Literal["sent", "lost"]) -> str:
    """Look up what became of an order."""
    return f"{state}, 2 days ago"


def connect(*, is_chat: bool = True) -> OpenAILike:
    """LlamaIndex must be told what it knows of OpenAI's own models by their names."""
    return OpenAILike(
        model=os.environ.get("MODEL", "production"),
        api_base=os.environ["OPENAI_BASE_URL"],
        api_key=os.environ["OPENAI_API_KEY"],
        is_chat_model=is_chat,
        is_function_calling_model=is_chat,
        context_window=2048,
        strict=True,
        max_tokens=128,
    )


def main() -> None:
    """Do each once."""
    llm = connect()
    whole = llm.chat(QUESTION)
    print("whole:", whole.raw.model, whole.raw.usage.completion_tokens > 0)
    print("streamed:", len([each for each in llm.stream_chat(QUESTION) if each.delta]) > 1)
    print("async:", asyncio.run(llm.achat(QUESTION)).raw.model)
    print("completion:", connect(is_chat=False).complete("The refund").raw.choices[0].finish_reason)
    tools = [FunctionTool.from_defaults(find_order)]
    asked = llm.chat_with_tools(tools, user_msg="Where is my order?", tool_required=True)
    (call, *_) = llm.get_tool_calls_from_response(asked)
    print("tool call:", call.tool_name, call.tool_kwargs)


if __name__ == "__main__":
    main()
