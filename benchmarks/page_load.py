"""The page under load: a long-lived workspace, a round in progress, and many people who look on.

Measured: when a browser first paints each page, how much memory the page's process takes after
thousands of views, and how much slower the updates of a round are while people have pages open that
follow it. People come and go in turns within one round, so that the machine's other work meets
both alike, and each turn is compared with the one before; how much of the processors the page, the
people and an update took tells what other work does not change. The people are `page_people.py`, a
light process of its own: in life they have machines of their own, so what it takes is reported
apart and is no part of the page's.

Usage: page_load.py [--versions 200] [--rows 1000000] [--people 20] [--updates 250]
[--model NAME] [--work FOLDER] [--quick] [--out FILE]
"""

import argparse
import os
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
from page_people import FOLLOWED

from llama_factory.core import files
from llama_factory.training.monitor import TRAINER_LOG
from llama_factory.versions import releases
from llama_factory.versions.workspace import Workspace
from tests.web import browser
from tests.web.bots import make_bot

WORK = Path(__file__).parent / ".work" / "page"
TURN_UPDATES = 16
"""Updates of the round for which people stay, and stay away."""
PEOPLE = Path(__file__).parent / "page_people.py"
VIEWS = 3000
TAKEN = "milliseconds_of_processors_a_second"
LAST_IN_LINE = 19
"""The people take what others leave of the processors."""
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
    bot = prepare(options)
    newest = sorted(each.name for each in bot.versions.iterdir())[-1]
    views = [*FOLLOWED, "data", "data?q=warranty", "review", f"versions/{newest}"]
    results: dict[str, Any] = {"versions": options.versions, "rows": options.rows}
    with page_process(bot.folder) as (address, process):
        if not options.only_round:
            results["alone"] = first_paints(address, views)
            results["memory_mb"] = memory(address, process, options.views)
        else:
            views = []
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
    parser.add_argument("--updates", type=int, default=250, help="of the round")
    parser.add_argument("--views", type=int, default=VIEWS, help="before memory is looked at")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--work", type=Path, default=WORK, help="kept between runs")
    parser.add_argument("--quick", action="store_true", help="a smoke run")
    parser.add_argument("--only-prepare", action="store_true")
    parser.add_argument(
        "--only-round", action="store_true", help="no first paints, no memory: the round's pace"
    )
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
    busy = {}
    try:
        turns = _updates(bot, page, learning, options)
        if views:
            with people(address, options):
                busy = first_paints(address, views)
    finally:
        learning.send_signal(signal.SIGKILL)
        learning.wait()
    return ({"beside_a_round": busy} if busy else {}) | turns.numbers()


@dataclass
class Turn:
    """Some updates of the round, with or without people.

    Attributes:
        seconds: of each update.
        learner: seconds of the processors that the round took.
        page: the same of the page.
        people: the same of the people, who in truth have machines of their own.
    """

    seconds: list[float] = field(default_factory=list)
    learner: float = 0.0
    page: float = 0.0
    people: float = 0.0

    @property
    def median(self) -> float:
        """Seconds of an update."""
        return statistics.median(self.seconds)

    def share(self, name: str) -> float:
        """Milliseconds of the processors in each second."""
        taken: float = getattr(self, name)
        return round(1000 * taken / sum(self.seconds), 1)


@dataclass
class Turns:
    """Turns by number; people are there in every second one."""

    all: list[Turn] = field(default_factory=list)

    def numbers(self) -> dict[str, Any]:
        """What came out: pairs are a turn without people and the one with them that follows."""
        alone, together = self.all[::2], self.all[1::2]
        pairs = [b.median / a.median - 1 for a, b in zip(alone, together, strict=False)]
        own = [sum(t.learner for t in part) / _count(part) for part in (alone, together)]
        seconds = {
            "without_people": _median_and_quartiles(alone),
            "with_people": _median_and_quartiles(together),
            "updates_of_each": [_count(alone), _count(together)],
            "slower_in_pairs": [round(each, 4) for each in pairs],
            "slower": round(statistics.median(pairs), 4),
            "processor_seconds": [round(each, 4) for each in own],
            "own_work_slower": round(own[1] / own[0] - 1, 4),
        }
        taken = {
            "page_with_people": [turn.share("page") for turn in together],
            "page_without_people": [turn.share("page") for turn in alone],
            "people": [turn.share("people") for turn in together],
        }
        return {"seconds_an_update": seconds, TAKEN: taken}


def _count(turns: Sequence[Turn]) -> int:
    return sum(len(turn.seconds) for turn in turns)


def _median_and_quartiles(turns: Sequence[Turn]) -> list[float]:
    """Median, lower and upper quartile of the seconds of all updates."""
    low, middle, high = statistics.quantiles([s for turn in turns for s in turn.seconds])
    return [round(each, 4) for each in (middle, low, high)]


def _updates(
    bot: Workspace,
    page: tuple[str, psutil.Process],
    learning: "subprocess.Popen[bytes]",
    options: argparse.Namespace,
) -> Turns:
    (address, process), log = page, bot.building / TRAINER_LOG
    _wait_for_line(log, 2, learning)
    turns, learner = Turns(), psutil.Process(learning.pid)
    while _num_lines(log) + 2 * TURN_UPDATES < options.updates:
        is_alone = len(turns.all) % 2 == 0
        with nullcontext() if is_alone else people(address, options) as lookers:
            done = _num_lines(log) + 1  # some came while the people did
            before = _wait_for_line(log, done, learning)
            watched = [learner, process, *([lookers] if lookers else [])]
            used, turn = list(map(_processor_seconds, watched)), Turn()
            for number in range(done + 1, done + TURN_UPDATES + 1):
                now = _wait_for_line(log, number, learning)
                turn.seconds.append(now - before)
                before = now
            taken = [_processor_seconds(w) - u for w, u in zip(watched, used, strict=True)]
            turn.learner, turn.page, turn.people = (*taken, 0.0)[:3]
        turns.all.append(turn)
    return turns


def _processor_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _wait_for_line(log: Path, number: int, learning: "subprocess.Popen[bytes]") -> float:
    """When the log has so many lines."""
    while True:
        if _num_lines(log) >= number:
            return time.perf_counter()
        if learning.poll() is not None:
            raise SystemExit(f"the round ended early with code {learning.returncode}")
        time.sleep(0.01)


def _num_lines(log: Path) -> int:
    return log.read_bytes().count(b"\n") if log.exists() else 0


@contextmanager
def people(address: str, options: argparse.Namespace) -> Iterator[psutil.Process]:
    """The people who follow pages, until the block ends."""
    number, followed = str(options.people), ",".join(options.followed)
    command = [sys.executable, str(PEOPLE), address, number, followed]
    process = subprocess.Popen(command, preexec_fn=_step_back)
    time.sleep(2)
    try:
        yield psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


def _step_back() -> None:
    os.nice(LAST_IN_LINE)


def report(results: dict[str, Any]) -> None:
    """The tables."""
    if "alone" in results:
        _report_paints(results)
    seconds, taken = results["seconds_an_update"], results[TAKEN]
    columns = ["without people", "with people", "slower", "the round's own work"]
    shares = [seconds["slower"], seconds["own_work_slower"]]
    print_table(
        "Seconds an update of the round (medians)",
        columns,
        [
            [
                *(seconds[each][0] for each in ("without_people", "with_people")),
                *(f"{share:.1%}" for share in shares),
            ]
        ],
    )
    print_table(
        "Milliseconds of the processors in each second, by turn",
        ["", *map(str, range(1, 1 + max(map(len, taken.values()))))],
        [[name, *values] for name, values in taken.items()],
    )


def _report_paints(results: dict[str, Any]) -> None:
    alone, busy = results["alone"], results["beside_a_round"]
    rows = [[name, *alone[name].values(), *busy[name].values()] for name in alone]
    columns = ["page", "first paint, ms", "answer, ms", "beside a round: paint", "answer"]
    print_table("First paint in Chromium", columns, rows)
    print_table("Memory of the page, MB", ["after"] + ["more views"] * 3, [results["memory_mb"]])


if __name__ == "__main__":
    main()
