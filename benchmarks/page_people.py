"""People who have the page open, as one light process: they ask what the page's script asks.

No browser, no HTTP library and no reading of what comes: their cost is to be small beside that
of the page, and is reported apart. Used by `page_load.py`.

Usage: page_people.py ADDRESS NUMBER [PATH,PATH]
"""

import asyncio
import json
import re
import sys
from collections.abc import Sequence
from urllib.parse import urlsplit

SETTLE_SECONDS = 0.3
LEAST_PAUSE_SECONDS = 3.0
"""The page's script waits so long after a change, and so long between two refreshes."""
FOLLOWED = ("rounds", "", "versions", "monitor")
"""Pages that people have open, in turns."""
Headers = dict[str, str]


class Connection:
    """One connection that is kept, as a browser keeps it."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self._host, self._port, self._root = parts.hostname, parts.port, parts.path
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.cookie = ""

    async def ask(self, path: str, headers: Headers) -> tuple[Headers, asyncio.StreamReader]:
        """Send a request; gives the answer's headers, and where its body is read."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        lines = [f"GET {self._root}{path} HTTP/1.1", f"host: {self._host}:{self._port}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        lines += [f"cookie: {self.cookie}"] if self.cookie else []
        writer.write("\r\n".join([*lines, "", ""]).encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        assert head[0].split()[1] in ("200", "304"), head[0]
        pairs = (line.partition(": ") for line in head[1:] if line)
        known = {name.lower(): value for name, _, value in pairs}
        self.cookie = known.get("set-cookie", self.cookie).partition(";")[0]
        return known, reader

    async def get(self, path: str, headers: Headers) -> tuple[Headers, bytes]:
        """A whole answer."""
        known, reader = await self.ask(path, {"accept": "text/html", **headers})
        return known, await reader.readexactly(int(known.get("content-length", 0)))


async def look_on(address: str, number: int, followed: Sequence[str]) -> None:
    """Follow pages as the page's script does."""
    paths = [followed[each % len(followed)] for each in range(number)]
    await asyncio.gather(*(_follow(address, path) for path in paths))


async def _follow(address: str, path: str) -> None:
    pages, stream = Connection(address), Connection(address)
    _, page = await pages.get(path, {})
    (live,) = re.findall(r'data-live="([^"]+)"', page.decode())
    stream.cookie = pages.cookie
    topics, waiting, tag = set(live.split()), set[str](), ""
    refreshing: asyncio.Task[None] | None = None

    async def refresh() -> None:
        nonlocal tag
        await asyncio.sleep(SETTLE_SECONDS)
        is_wanted = topics & waiting
        waiting.clear()
        if is_wanted:
            headers, _ = await pages.get(path, {"x-part": "live", "if-none-match": tag})
            tag = headers.get("etag", tag)
        await asyncio.sleep(LEAST_PAUSE_SECONDS - SETTLE_SECONDS)
        if waiting:
            await refresh()

    _, events = await stream.ask("events", {"accept": "text/event-stream"})
    async for line in events:
        if line.startswith(b"data:"):
            waiting |= set(json.loads(line[5:]))
        if waiting and (refreshing is None or refreshing.done()):
            refreshing = asyncio.create_task(refresh())


if __name__ == "__main__":
    pages = sys.argv[3].split(",") if len(sys.argv) > 3 else FOLLOWED
    asyncio.run(look_on(sys.argv[1], int(sys.argv[2]), pages))
