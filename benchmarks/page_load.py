"""The page under load: a long-lived workspace, a round in progress, and many people who look on.

Measured: when a browser first paints each page, how much memory the page's process takes after
thousands of views, and how much slower the updates of a round are while people have pages open that
follow it. People come and go in turns within one round, so that the machine's other work meets
both alike; how much of the processors the page, the people and an update took tells what other work
does not change. They are a process of its own that does what the page's script does: follow the
stream, and fetch the page anew when it changes.

Usage: page_load.py [--versions 200] [--rows 1000000] [--people 20] [--updates 80]
[--model NAME] [--work FOLDER] [--quick] [--out FILE]
"""

import argparse
import asyncio
import json
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import httpx
import psutil
from common import print_table, write_results

from llama_factory.core import files
from llama_factory.training.monitor import TRAINER_LOG
from llama_factory.versions import releases
from llama_factory.versions.workspace import Workspace
from tests.web import browser
from tests.web.bots import make_bot

WORK = Path(__file__).parent / ".work" / "page"
FOLLOWED = ("rounds", "", "versions", "monitor")
"""Pages that people have open, in turns."""
TURN_UPDATES = 8
"""Updates of the round for which people stay, and stay away."""
SETTLE_SECONDS = 0.3
LEAST_PAUSE_SECONDS = 3.0
HTML = {"accept": "text/html"}
"""The page's script waits so long after a change, and so long between two refreshes."""
VIEWS = 3000
SHARE = "share_of_the_processors"
SETTINGS = """
model: {{base_model: {model}}}
training: {{epochs: 100, max_steps: {updates}, batch_size: 2}}
strategies: []
evaluation: {{max_new_tokens: 4}}
gate: {{max_guard_ratio: 99}}
"""


def main() -> None:
    """Measure and print."""
    options = _options()
    if options.look_on:
        asyncio.run(look_on(options.look_on, options.people, options.followed))
        return
    bot = prepare(options)
    newest = sorted(each.name for each in bot.versions.iterdir())[-1]
    views = [*FOLLOWED, "data", "data?q=warranty", "review", f"versions/{newest}"]
    results: dict[str, Any] = {"versions": options.versions, "rows": options.rows}
    with page_process(bot.folder) as (address, process):
        results["alone"] = first_paints(address, views)
        results["memory_mb"] = memory(address, process, options.views)
        results |= beside_a_round(bot, (address, process), views, options)
    report(results)
    known = {"people": options.people, "followed": options.followed}
    write_results(options.out, known | results)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--versions", type=int, default=200)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of all versions together")
    parser.add_argument("--people", type=int, default=20)
    parser.add_argument(
        "--followed", type=lambda text: text.split(","), default=FOLLOWED, help="in turns"
    )
    parser.add_argument("--updates", type=int, default=80, help="of the round")
    parser.add_argument("--views", type=int, default=VIEWS, help="before memory is looked at")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--work", type=Path, default=WORK, help="kept between runs")
    parser.add_argument("--quick", action="store_true", help="a smoke run")
    parser.add_argument("--only-prepare", action="store_true")
    parser.add_argument("--look-on", default="", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.quick:
        options.versions, options.rows, options.people, options.views = 3, 300, 2, 20
        options.updates = 4 * TURN_UPDATES
    if options.only_prepare:
        prepare(options)
        raise SystemExit
    return options


def prepare(options: argparse.Namespace) -> Workspace:
    """A workspace with many versions, each with its share of the rows; the base model answers."""
    folder = options.work / f"bot-{options.versions}-{options.rows}"
    if not (folder / "prepared").exists():
        refused = [number for number in range(1, options.versions + 1) if number % 5]
        bot = make_bot(folder, options.versions, refused=refused, base_model=options.model)
        each = options.rows // options.versions
        for number in range(1, options.versions + 1):
            path = bot.versions / f"v{number:04d}" / "data" / "train.jsonl"
            files.write_jsonl(path, (_row(number, line) for line in range(each)))
        releases.promote(bot.releases, "v0000", "for the benchmark")
        (folder / "prepared").touch()
    bot = Workspace(folder)
    files.write_text(
        bot.settings, SETTINGS.format(model=options.model, updates=options.updates).lstrip()
    )
    waiting = [
        {"instruction": f"What does part {n} cost?", "output": f"Part {n} costs {n * 7} euros."}
        for n in range(200)
    ]
    files.write_jsonl(bot.inbox / "parts.jsonl", waiting)
    shutil.rmtree(bot.building, ignore_errors=True)  # of a round that was ended here
    return bot


def _row(version: int, line: int) -> dict[str, Any]:
    said = (
        f"How much is part {line} of {version}?",
        f"It is {line * 3} euros and {version} cents.",
    )
    turns = [{"role": r, "content": c} for r, c in zip(("user", "assistant"), said, strict=True)]
    return {"messages": turns, "group": "parts", "file": f"parts-{version}.jsonl", "line": line}


@contextmanager
def page_process(folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """The page alone, in a process of its own."""
    before = {each.pid for each in psutil.Process().children()}
    with browser.page_process(folder, "--no-api") as address:
        (process,) = (e for e in psutil.Process().children() if e.pid not in before)
        yield address, process


def first_paints(address: str, views: Sequence[str]) -> dict[str, dict[str, float]]:
    """By page: milliseconds to the first paint, and to the end of the answer."""
    found = {}
    with browser.chromium() as person:
        person.visit(address)
        for path in views:
            times = [_paint(person, path) for _ in range(3)]
            found[path or "overview"] = {
                name: round(statistics.median(each[name] for each in times), 1)
                for name in ("first_paint_ms", "answered_ms")
            }
    return found


def _paint(person: browser.Person, path: str) -> dict[str, float]:
    person.open(path)
    times = person.driver.execute_async_script(
        "const done = arguments[0]; const look = () => {"
        "const p = performance.getEntriesByName('first-contentful-paint')[0];"
        "if (!p) return setTimeout(look, 20);"
        "done([p.startTime, performance.getEntriesByType('navigation')[0].responseEnd]); }; look();"
    )
    return {"first_paint_ms": times[0], "answered_ms": times[1]}


def memory(address: str, process: psutil.Process, views: int) -> list[float]:
    """Megabytes of the page's process: after some views, and after each third of all of them."""
    paths = [*FOLLOWED, "data", "review"]
    found = []
    with httpx.Client(base_url=address, headers={"accept": "text/html"}, timeout=60) as client:
        for part in (views // 10, *[views // 3] * 3):
            for number in range(part):
                client.get(paths[number % len(paths)]).raise_for_status()
            found.append(round(process.memory_info().rss / 1e6, 1))
    return found


def beside_a_round(
    bot: Workspace,
    page: tuple[str, psutil.Process],
    views: Sequence[str],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Updates of a round with and without people, and first paints beside both."""
    address = page[0]
    command = [sys.executable, "-m", "llama_factory", "learn", str(bot.folder)]
    learning = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        turns = _updates(bot, page, learning, options)
        with people(address, options):
            busy = first_paints(address, views)
    finally:
        learning.send_signal(signal.SIGKILL)
        learning.wait()
    alone, together = turns.seconds
    own = [total / len(t) for total, t in zip(turns.round_seconds, turns.seconds, strict=True)]
    slower = statistics.median(together) / statistics.median(alone) - 1
    seconds = {
        "without_people": round(statistics.median(alone), 4),
        "with_people": round(statistics.median(together), 4),
        "spread_without": [round(each, 4) for each in statistics.quantiles(alone)],
        "spread_with": [round(each, 4) for each in statistics.quantiles(together)],
        "updates_of_each": [len(alone), len(together)],
        "slower": round(slower, 4),
        "processor_seconds": [round(each, 4) for each in own],
        "own_work_slower": round(own[1] / own[0] - 1, 4),
    }
    there = turns.passed * (psutil.cpu_count() or 1)
    return {
        "beside_a_round": busy,
        "seconds_an_update": seconds,
        SHARE: round(turns.page_seconds / there, 4),
        "share_of_the_people": round(turns.people_seconds / there, 4),
    }


@dataclass
class Turns:
    """What was measured in the turns without people, and in those with them.

    Attributes:
        seconds: of each update, without and with people; each turn's first is left out.
        round_seconds: of the processors, that the round took in these updates.
        page_seconds: of the processors, that the page took while people were there.
        people_seconds: the same of the people, who in truth have machines of their own.
        passed: seconds that people were there.
    """

    seconds: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    round_seconds: list[float] = field(default_factory=lambda: [0.0, 0.0])
    page_seconds: float = 0.0
    people_seconds: float = 0.0
    passed: float = 0.0


def _updates(
    bot: Workspace,
    page: tuple[str, psutil.Process],
    learning: "subprocess.Popen[bytes]",
    options: argparse.Namespace,
) -> Turns:
    (address, process), log = page, bot.building / TRAINER_LOG
    _wait_for_line(log, 2, learning)
    turns, done, learner = Turns(), 2, psutil.Process(learning.pid)
    while done + TURN_UPDATES < options.updates:
        turn = (done // TURN_UPDATES) % 2
        with people(address, options) if turn else nullcontext() as lookers:
            before = begun = _wait_for_line(log, done + 1, learning)
            watched = [learner, process, *([lookers] if lookers else [])]
            used = list(map(_processor_seconds, watched))
            for number in range(done + 2, done + TURN_UPDATES + 1):
                now = _wait_for_line(log, number, learning)
                turns.seconds[turn].append(now - before)
                before = now
            taken = [_processor_seconds(w) - u for w, u in zip(watched, used, strict=True)]
            turns.round_seconds[turn] += taken[0]
            if turn:
                turns.page_seconds += taken[1]
                turns.people_seconds += taken[2]
                turns.passed += before - begun
        done += TURN_UPDATES
    return turns


def _processor_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _wait_for_line(log: Path, number: int, learning: "subprocess.Popen[bytes]") -> float:
    """When the log has so many lines."""
    while True:
        if log.exists() and log.read_bytes().count(b"\n") >= number:
            return time.perf_counter()
        if learning.poll() is not None:
            raise SystemExit(f"the round ended early with code {learning.returncode}")
        time.sleep(0.01)


@contextmanager
def people(address: str, options: argparse.Namespace) -> Iterator[psutil.Process]:
    """The people who follow pages, until the block ends."""
    number, followed = str(options.people), ",".join(options.followed)
    command = [sys.executable, __file__, "--look-on", address, "--people", number]
    command += [f"--followed={followed}"]
    process = subprocess.Popen(command)
    time.sleep(2)
    try:
        yield psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


async def look_on(address: str, number: int, followed: Sequence[str]) -> None:
    """Follow pages as the page's script does."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=address, limits=limits, timeout=None) as client:
        paths = [followed[each % len(followed)] for each in range(number)]
        await asyncio.gather(*(_follow(client, path) for path in paths))


async def _follow(client: httpx.AsyncClient, path: str) -> None:
    page = await client.get(path, headers=HTML)
    (live,) = re.findall(r'data-live="([^"]+)"', page.text)
    topics, waiting, refreshing = set(live.split()), set[str](), asyncio.create_task(_nothing())
    tag = ""

    async def refresh() -> None:
        nonlocal tag
        await asyncio.sleep(SETTLE_SECONDS)
        is_wanted = topics & waiting
        waiting.clear()
        if is_wanted:
            answer = await client.get(path, headers=HTML | {"x-part": "live", "if-none-match": tag})
            tag = answer.headers.get("etag", tag)
        await asyncio.sleep(LEAST_PAUSE_SECONDS - SETTLE_SECONDS)
        if waiting:
            await refresh()

    async with client.stream("GET", "events") as stream:
        async for line in stream.aiter_lines():
            if line.startswith("data:"):
                waiting |= set(json.loads(line[5:]))
            if waiting and refreshing.done():
                refreshing = asyncio.create_task(refresh())


async def _nothing() -> None:
    """No refresh yet."""


def report(results: dict[str, Any]) -> None:
    """The tables."""
    alone, busy = results["alone"], results["beside_a_round"]
    rows = [[name, *alone[name].values(), *busy[name].values()] for name in alone]
    columns = ["page", "first paint, ms", "answer, ms", "beside a round: paint", "answer"]
    print_table("First paint in Chromium", columns, rows)
    print_table("Memory of the page, MB", ["after"] + ["more views"] * 3, [results["memory_mb"]])
    seconds = results["seconds_an_update"]
    columns = ["without people", "with people", "slower", "the round's own work", "page", "people"]
    shares = [seconds["slower"], seconds["own_work_slower"]]
    shares += [results[SHARE], results["share_of_the_people"]]
    print_table(
        "Seconds an update of the round (medians); shares of the processors",
        columns,
        [
            [
                *(seconds["without_people"], seconds["with_people"]),
                *(f"{100 * each:.1f} %" for each in shares),
            ]
        ],
    )


if __name__ == "__main__":
    main()
