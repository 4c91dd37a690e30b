"""Attacks on keys, and on what lies beneath the server: its files, its clock, its disk."""

import contextlib
import hashlib
import json
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from llama_factory.serving import keys
from llama_factory.serving.access import ApiKey
from llama_factory.versions import releases
from tests.serving.attacked import ASKED, CHAT, SECONDS, SLOW_TOKENS, Attacked
from tests.serving.attacks import DISK, KEYS, attack, each
from tests.serving.running import wait_until


@attack(KEYS, "no key; a wrong one; the hash in the file; another scheme; an empty one")
def _(server: Attacked) -> str:
    hashed = keys.read_keys(server.workspace.folder / "keys.json")[0].sha256
    sent = {
        "wrong": "Bearer x",
        "hash": f"Bearer {hashed}",
        "scheme": f"Basic {server.key}",
        "empty": "Bearer",
    }
    results = {name: server.get("/v1/models", Authorization=value) for name, value in sent.items()}
    return each(
        {
            "none": server.raw(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
            **results,
        }
    )


@attack(KEYS, "300 guesses on one connection")
def _(server: Attacked) -> str:
    with httpx.Client(base_url=server.url, timeout=SECONDS) as client:
        statuses = {
            client.get("/v1/models", headers={"Authorization": f"Bearer lf-{number}"}).status_code
            for number in range(300)
        }
    return f"{statuses.pop()} each" if len(statuses) == 1 else str(statuses)


@attack(KEYS, "a key without the scope")
def _(server: Attacked) -> str:
    with made_key(server, ApiKey("narrow", ("feedback",))) as secret:
        return server.get("/v1/models", Authorization=f"Bearer {secret}")


@attack(KEYS, "a third request of a key that may ask twice a minute")
def _(server: Attacked) -> str:
    with made_key(server, ApiKey("limited", requests_a_minute=2)) as secret:
        return [server.get("/v1/models", Authorization=f"Bearer {secret}") for _ in range(3)][-1]


@attack(KEYS, "a key that is revoked in the middle of its stream")
def _(server: Attacked) -> str:
    body = {"model": "v0000", "messages": ASKED, "stream": True, "max_tokens": SLOW_TOKENS}
    with made_key(server, ApiKey("brief")) as secret:
        headers = {"Authorization": f"Bearer {secret}"}
        request = {"json": body, "headers": headers, "timeout": SECONDS}
        with httpx.stream("POST", server.url + CHAT, **request) as answer:
            lines = answer.iter_lines()
            first = next(lines)
            keys.revoke_key(server.workspace.folder / "keys.json", "brief")
            events = [line.removeprefix("data: ") for line in (first, *lines) if line]
    return f"the stream ends with {json.loads(events[-2])['error']['code']}"


@contextlib.contextmanager
def made_key(server: Attacked, key: ApiKey) -> Iterator[str]:
    """A key that the server knows, for a while; its file is then as it was."""
    path = server.workspace.folder / "keys.json"
    before = path.read_bytes()
    secret = keys.create_key(path, key)
    headers = {"Authorization": f"Bearer {secret}"}
    # The description may be read with any key, and costs nothing of what it may ask.
    wait_until(lambda: server.get("/metrics", **headers).split()[0] != "401", "the new key")
    try:
        yield secret
    finally:
        path.write_bytes(before)


@attack(DISK, "`keys.json` is damaged, then mended")
def _(server: Attacked) -> str:
    with changed(server.workspace.folder / "keys.json", b"{"):
        wait_until(lambda: server.get("/v1/models") != "200", "the end of the keys")
        result = server.get("/v1/models")
    wait_until(lambda: server.get("/v1/models") == "200", "the keys again")
    return f"{result}; mended: 200"


@attack(DISK, "`keys.json` is deleted")
def _(server: Attacked) -> str:
    with changed(server.workspace.folder / "keys.json", None):
        wait_until(lambda: server.get("/v1/models") != "200", "the end of the keys")
        result = server.get("/v1/models")
    wait_until(lambda: server.get("/v1/models") == "200", "the keys again")
    return result


@attack(DISK, "`releases.json` is damaged, cut, or names `../x`")
def _(server: Attacked) -> str:
    path = server.workspace.releases
    whole = path.read_bytes()
    evil = json.dumps({"aliases": {"production": "../x"}, "history": []}).encode()
    results = {}
    for name, content in {"damaged": b"\xff", "cut": whole[:20], "`../x`": evil}.items():
        with changed(path, content):
            time.sleep(0.3)  # three looks
            results[name] = f"{server.chat()} by {server.health()['version']}"
    return each(results)


@attack(DISK, "a version whose weights are no safetensors is released; with checksums that fit")
def _(server: Attacked) -> str:
    folder = server.workspace.versions / "v0002"
    weights, manifest = folder / "adapter/adapter_model.safetensors", folder / "manifest.json"
    evil = b"\xff" * 7 + b"\x7f" + b"{" * 100  # a header of 2^63 bytes
    values = json.loads(manifest.read_bytes())
    values["files"]["adapter/adapter_model.safetensors"] = hashlib.sha256(evil).hexdigest()
    with changed(weights, evil):
        wrong = released(server, "v0002")
        with changed(manifest, json.dumps(values).encode()):
            fitting = released(server, "v0002")
    return each({"no": wrong, "fitting": fitting})


def released(server: Attacked, version_id: str) -> str:
    """What a request gets while a version is released that cannot be served."""
    with changed(server.workspace.releases, None, restore=True):
        releases.promote(server.workspace.releases, version_id, "attack")
        wait_until(lambda: server.health()["refused"] == [version_id], "the look at the release")
        result = f"{server.chat()} by {server.health()['version']}"
    wait_until(lambda: server.health()["released"] == "v0001", "the release before")
    return result


@attack(DISK, "the folder of the version that answers is deleted")
def _(server: Attacked) -> str:
    folder = server.workspace.versions / "v0001"
    aside = server.workspace.folder / "aside"
    shutil.move(folder, aside)
    time.sleep(0.3)
    result = f"{server.chat()} by {server.health()['version']}"
    shutil.move(aside, folder)
    return result


@attack(DISK, "the clock jumps a day ahead, then two days back")
def _(server: Attacked) -> str:
    results = []
    for _ in range(2):
        server.signal(signal.SIGUSR1)
        results.append(server.chat())
    return each({"ahead": results[0], "back": results[1]})


@attack(DISK, "no file can be written: the disk is full")
def _(server: Attacked) -> str:
    server.signal(signal.SIGUSR2)
    result = server.chat()
    server.signal(signal.SIGUSR2)
    return result


@contextlib.contextmanager
def changed(path: Path, content: bytes | None, *, restore: bool = False) -> Iterator[None]:
    """A file with other content, or without any; then as it was.

    Args:
        path: the file.
        content: what it holds meanwhile; None deletes it.
        restore: leave it as it is at first, but put it back.
    """
    before = path.read_bytes()
    if restore:
        pass
    elif content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(before)
