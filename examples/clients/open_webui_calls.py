"""The HTTP calls that Open WebUI makes: it lists the models, then asks the one that is chosen.

Enter the address (such as http://127.0.0.1:8000/v1) and the key under Settings > Connections there.
This script makes the same calls without it: its backend asks `/models`, streams an answer with
token counts, and asks for a title and tags without a stream.
Reads OPENAI_BASE_URL and OPENAI_API_KEY; MODEL is optional.
"""

import json
import os

import httpx

URL = os.environ["OPENAI_BASE_URL"]
HEADERS = {
    "Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}",
    "Content-Type": "application/json",
    # sent where ENABLE_FORWARD_USER_INFO_HEADERS is set
    "X-OpenWebUI-User-Name": "Ada",
    "X-OpenWebUI-User-Id": "b1946ac9-2492-4a4b-9d3a-000000000001",
    "X-OpenWebUI-User-Email": "ada@example.org",
    "X-OpenWebUI-User-Role": "user",
}
QUESTION = "What is the refund policy?"


def main() -> None:
    """List, chat, and name the chat."""
    with httpx.Client(headers=HEADERS, timeout=60) as client:
        models = client.get(f"{URL}/models").raise_for_status().json()
        assert models["object"] == "list"
        names = [model["id"] for model in models["data"]]
        model = os.environ.get("MODEL", "production")
        print("models:", model in names, len(names))
        turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
        text, usage = streamed(client, chat(model, turns, stream=True))
        print("streamed:", len(text) > 0, usage["completion_tokens"])
        turns += [{"role": "assistant", "content": text}, {"role": "user", "content": "And then?"}]
        text, _ = streamed(client, chat(model, turns, stream=True))
        print("second turn:", len(text) > 0)
        task = f"### Task:\nGenerate a concise title of 3-5 words.\n### Chat History:\n{QUESTION}"
        asked = chat(model, [{"role": "user", "content": task}], stream=False)
        title = client.post(f"{URL}/chat/completions", json=asked | {"max_completion_tokens": 32})
        choice = title.raise_for_status().json()["choices"][0]
        print("title:", choice["message"]["role"], choice["finish_reason"])


def chat(model: str, turns: list[dict[str, str]], *, stream: bool) -> dict[str, object]:
    """A request with the fields that Open WebUI passes on, sliders included."""
    body: dict[str, object] = {"model": model, "messages": turns, "stream": stream}
    if stream:
        body |= {"stream_options": {"include_usage": True}, "temperature": 0.8, "top_p": 0.9}
        body |= {"max_tokens": 32, "seed": 1, "stop": ["###"]}
        body |= {"frequency_penalty": 0.1, "presence_penalty": 0.1}
    return body


def streamed(client: httpx.Client, body: dict[str, object]) -> tuple[str, dict[str, int]]:
    """The text and the token counts of a streamed answer."""
    text, usage = "", {}
    with client.stream("POST", f"{URL}/chat/completions", json=body) as response:
        response.read() if response.is_error else None
        response.raise_for_status()
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    for line in lines[:-1]:
        chunk = json.loads(line.removeprefix("data: "))
        usage = chunk.get("usage") or usage
        for choice in chunk["choices"]:
            text += choice["delta"].get("content") or ""
    return text, usage


if __name__ == "__main__":
    main()
