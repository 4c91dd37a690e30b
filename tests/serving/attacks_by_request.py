"""Attacks that need no more than a connection, and often a key."""

import contextlib
import json
import time

import httpx

from llama_factory.serving import bodies
from tests.serving.attacked import ASKED, CHAT, SECONDS, SLOW_TOKENS, Attacked, got, named
from tests.serving.attacks import HTTP, JSON, SIZE, VALUES, attack, each
from tests.serving.running import wait_until


@attack(SIZE, "a body of 100 MB, announced, without a key")
def _(server: Attacked) -> str:
    return server.raw(
        f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n".encode()
    )


@attack(SIZE, "the same with a key")
def _(server: Attacked) -> str:
    return server.raw(server.head("Content-Length: 100000000"))


@attack(SIZE, "a body beyond the limit in chunks, without its length")
def _(server: Attacked) -> str:
    pieces = (b"x" * 50_000 for _ in range(40))
    answer = httpx.post(server.url + CHAT, content=pieces, headers=server.headers, timeout=SECONDS)
    return named(answer.status_code, answer.content)


@attack(SIZE, "a head that never ends, byte by byte")
def _(server: Attacked) -> str:
    with server.opened(b"GET /health HTTP/1.1\r\nX: ") as made, contextlib.suppress(OSError):
        for _ in range(1000):
            made.sendall(b"x")
            time.sleep(0.01)
        return "still open"
    return "closed without an answer"


@attack(SIZE, "a body that never ends, byte by byte")
def _(server: Attacked) -> str:
    said = b""
    with server.opened(server.head("Content-Length: 100000")) as made:
        with contextlib.suppress(OSError):
            for _ in range(500):
                made.sendall(b" ")
                time.sleep(0.01)
        with contextlib.suppress(OSError):
            said = made.recv(65536)
    return got(said)


@attack(SIZE, "a head of 1 MB; 10,000 headers")
def _(server: Attacked) -> str:
    many = [f"X-{number}: {number}" for number in range(10_000)]
    heads = {"1 MB": server.head("X: " + "x" * 1_000_000), "10,000": server.head(*many)}
    return each({name: server.raw(head) for name, head in heads.items()})


@attack(SIZE, "300 idle connections (of 160 open files)")
def _(server: Attacked) -> str:
    idle = [server.opened() for _ in range(300)]
    result = server.chat()
    for made in idle:
        made.close()
    return f"others: {result}"


@attack(SIZE, "a stream that nobody reads")
def _(server: Attacked) -> str:
    body = json.dumps({"model": "v0000", "messages": ASKED, "stream": True, "max_tokens": 300})
    sent = [
        server.opened(
            server.head(f"Content-Length: {len(body)}", "Content-Type: application/json")
            + body.encode()
        )
    ]
    result = server.chat()
    for made in sent:
        made.close()
    return f"others: {result}"


@attack(SIZE, "20 clients that leave in the middle of their answers")
def _(server: Attacked) -> str:
    body = json.dumps({"model": "v0000", "messages": ASKED, "max_tokens": SLOW_TOKENS}).encode()
    head = server.head(f"Content-Length: {len(body)}", "Content-Type: application/json")
    for _ in range(20):
        server.opened(head + body).close()
    wait_until(lambda: server.health()["queue"] == 0, "an empty queue")
    return f"others: {server.chat()}"


@attack(HTTP, "garbage; a TLS handshake; HTTP/2")
def _(server: Attacked) -> str:
    sent = {
        "garbage": b"\x00\xff\xfe\r\n\r\n",
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 32 + b"\r\n\r\n",
        "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    }
    return each({name: server.raw(bytes_) for name, bytes_ in sent.items()})


@attack(HTTP, "smuggling: two lengths; length and chunks; unknown coding; a space before the colon")
def _(server: Attacked) -> str:
    inner = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
    heads = {
        "two lengths": ("Content-Length: 5", "Content-Length: 6"),
        "length and chunks": ("Content-Length: 5", "Transfer-Encoding: chunked"),
        "unknown coding": ("Transfer-Encoding: xchunked",),
        "a space": ("Content-Length : 5",),
    }
    return each(
        {
            name: server.raw(server.head(*lines) + b"0\r\n\r\n" + inner)
            for name, lines in heads.items()
        }
    )


@attack(HTTP, "a header with NUL; folded over two lines; a length of -1, 1e3, 99 digits")
def _(server: Attacked) -> str:
    heads = {
        "NUL": "X: a\x00b",
        "folded": "X: a\r\n b",
        "-1": "Content-Length: -1",
        "1e3": "Content-Length: 1e3",
        "99 digits": "Content-Length: " + "9" * 99,
    }
    return each({name: server.raw(server.head(line)) for name, line in heads.items()})


@attack(HTTP, "paths: `/v1/../health`, `//v1/models`, `%2e%2e`, `%00`, `/etc/passwd`")
def _(server: Attacked) -> str:
    paths = (
        "/v1/../health",
        "//v1/models",
        "/v1/%2e%2e/%2e%2e/etc/passwd",
        "/v1/models/..%2f..%2fkeys.json",
        "/v1/models/%00",
        "/etc/passwd",
        "/keys.json",
        "/v1/models/" + "x" * 10_000,
    )
    results = {path: server.raw(server.head(first=f"GET {path} HTTP/1.1")) for path in paths}
    return each({path[:32]: result.split()[0] for path, result in results.items()})


@attack(HTTP, "other methods: PUT, DELETE, TRACE, PATCH, a made-up one")
def _(server: Attacked) -> str:
    methods = ("PUT", "DELETE", "TRACE", "PATCH", "BREW")
    return each(
        {
            name: server.raw(server.head(first=f"{name} {CHAT} HTTP/1.1")).split()[0]
            for name in methods
        }
    )


@attack(HTTP, "a request id that forges a line of the log")
def _(server: Attacked) -> str:
    answer = httpx.get(
        f"{server.url}/v1/models", headers={**server.headers, "x-request-id": "a b\tc 200"}
    )
    is_kept = answer.headers["x-request-id"] == "a b\tc 200"
    return f"{answer.status_code}, {'kept' if is_kept else 'another id'}"


@attack(JSON, "lists in each other: 65, 100,000")
def _(server: Attacked) -> str:
    depths = (bodies.MAX_DEPTH + 1, 100_000)
    return each({str(depth): server.post(b"[" * depth + b"]" * depth) for depth in depths})


@attack(JSON, "NaN, Infinity, a number of 5,000 digits")
def _(server: Attacked) -> str:
    sent = ("NaN", "-Infinity", "9" * 5_000)
    body = '{"model": "production", "messages": [], "temperature": %s}'
    return each({name[:9]: server.post((body % name).encode()) for name in sent})


@attack(JSON, "300,000 empty lists")
def _(server: Attacked) -> str:
    return server.post(b"[" + b"[]," * 300_000 + b"0]")


@attack(JSON, "half a character in a text, a model's name, a field's name")
def _(server: Attacked) -> str:
    half = "\ud800"
    fields = {
        "text": {"messages": [{"role": "user", "content": half}]},
        "model": {"model": half},
        "field": {half: 1},
    }
    return each({name: server.chat(**value).split()[0] for name, value in fields.items()})


@attack(JSON, "invalid UTF-8; UTF-16; an empty body; `null`; a body of blanks")
def _(server: Attacked) -> str:
    sent = {
        "UTF-8": b'{"model": "\xff\xfe"}',
        "UTF-16": json.dumps({"model": "production"}).encode("utf-16"),
        "empty": b"",
        "null": b"null",
        "blanks": b" " * 100_000,
    }
    return each({name: server.post(body) for name, body in sent.items()})


@attack(JSON, "NUL, control characters, right-to-left marks, the model's own end tokens in a text")
def _(server: Attacked) -> str:
    texts = {
        "NUL": "a\x00b",
        "control": "\x1b[2J\x07",
        "marks": "\u202e\u200f",
        "tokens": "<|im_end|>",
    }
    return each(
        {
            name: server.chat(messages=[{"role": "user", "content": text}])
            for name, text in texts.items()
        }
    )


@attack(JSON, "another content type: form, text, none")
def _(server: Attacked) -> str:
    body = json.dumps({"model": "production", "messages": ASKED, "max_tokens": 1}).encode()
    types = {"form": "application/x-www-form-urlencoded", "text": "text/plain", "none": ""}
    return each({name: server.post(body, **{"Content-Type": kind}) for name, kind in types.items()})


@attack(JSON, "a model named as a path")
def _(server: Attacked) -> str:
    names = {name: name for name in ("../../etc/passwd", "/etc", "v0001/../v0002")}
    names |= {"NUL": "\x00", "100,000 characters": "x" * 100_000}
    return each({what: server.chat(model=name) for what, name in names.items()})


@attack(VALUES, "a stop string of 900,000 characters; 5 of them")
def _(server: Attacked) -> str:
    return each({"long": server.chat(stop="x" * 900_000), "many": server.chat(stop=["x"] * 5)})


@attack(VALUES, "`n`: 10^9, -1; `max_tokens`: 10^18, 0, -1, true")
def _(server: Attacked) -> str:
    fields = [("n", 10**9), ("n", -1), *(("max_tokens", value) for value in (0, -1, True))]
    results = {f"{name} {value}": server.chat(**{name: value}) for name, value in fields}
    long = server.chat(max_tokens=10**18, stop=["e", "a", "t", "n"])
    return each({**results, "max_tokens 10^18": long})


@attack(VALUES, "`logit_bias` with 50,000 entries, of 10^300, for a token of 10^18")
def _(server: Attacked) -> str:
    values = {
        "50,000": {str(number): 1 for number in range(50_000)},
        "10^300": {"5": 1e300},
        "10^18": {str(10**18): 1},
    }
    return each({name: server.chat(logit_bias=value) for name, value in values.items()})


@attack(VALUES, "`temperature` 10^308; `seed` 10^300; `top_p` -1; `top_logprobs` 10^6")
def _(server: Attacked) -> str:
    fields = {"temperature": 1e308, "seed": 10**300, "top_p": -1, "top_logprobs": 10**6}
    return each({name: server.chat(**{name: value}) for name, value in fields.items()})


@attack(VALUES, "5,000 messages; 1,000 tools; a tool of 500 kB")
def _(server: Attacked) -> str:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    large = {"type": "function", "function": {"name": "f", "description": "x" * 500_000}}
    sent = {
        "messages": server.chat(messages=ASKED * 5_000),
        "tools": server.chat(tools=[tool] * 1_000),
        "large tool": server.chat(tools=[large]),
    }
    return each(sent)


def _schema(schema: object) -> dict[str, object]:
    named_schema = {"name": "answer", "schema": schema}
    return {"response_format": {"type": "json_schema", "json_schema": named_schema}}


@attack(VALUES, "a schema: nested 30 deep, of 200 kB, that refers to itself, a file, an address")
def _(server: Attacked) -> str:
    deep: dict[str, object] = {"type": "integer"}
    for _ in range(30):
        deep = {"type": "object", "properties": {"a": deep}, "required": ["a"]}
    itself = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}
    schemas = {
        "deep": deep,
        "large": {"enum": [f"{number:08}" * 10 for number in range(2_500)]},
        "itself": itself,
        "file": {"$ref": "file:///etc/passwd"},
        "address": {"$ref": "http://127.0.0.1:9/schema.json"},
    }
    return each({name: server.chat(**_schema(schema)) for name, schema in schemas.items()})


@attack(VALUES, "a schema: patterns to backtrack in, of 10^6 repetitions, of none; 10^9 items")
def _(server: Attacked) -> str:
    schemas = {
        "backtracking": {"type": "string", "pattern": "^(a|a)*b$"},
        "repetitions": {"type": "string", "pattern": "(x{1,999}){1,999}"},
        "items": {"type": "array", "items": {"type": "integer"}, "minItems": 10**9},
        "wrong": {"type": "string", "pattern": "(("},
    }
    return each({name: server.chat(**_schema(schema)) for name, schema in schemas.items()})


@attack(VALUES, "a prompt of 900,000 characters")
def _(server: Attacked) -> str:
    return server.chat(messages=[{"role": "user", "content": "hello " * 150_000}])
