"""Simulated users try a good and a poisoned candidate of a real workspace, over HTTP.

    python benchmarks/canary_users.py PATH/TO/cl_benchmark --out canary_users.json

A bot learns to rate reviews (SST-2). A second round teaches it more of them: the good candidate,
which `gate.release: canary` has tried. A third one teaches reviews with the labels exchanged and is
tried although the gate may refuse it (`canary --start`). Users ask about reviews that no round
saw, one conversation each, and turn their thumb down where the answer is wrong. `--quick` takes
steps instead of epochs and few conversations.
"""

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import httpx
from common import print_table, write_results
from openai import OpenAI
from ten_rounds import read_rows

import llama_factory as lf
from llama_factory import operate
from llama_factory.serving import canary_store
from llama_factory.serving.api import create_app
from llama_factory.serving.server import Server, listen
from llama_factory.serving.settings import ServingSettings
from llama_factory.versions import releases
from llama_factory.versions.workspace import Workspace

FRACTION = 0.5
TOLERATED = 0.1
NUM_USERS = 4
"""Who ask at the same time."""
ENDS = ("promoted", "taken_back", "undecided", "moved", "aborted")
Row = dict[str, str]


class Users:
    """They ask, and turn their thumb down where the answer is not the label."""

    def __init__(self, client: OpenAI, rows: list[Row], name: str) -> None:
        self.client, self.rows, self.name = client, rows, name
        self.answers: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter()
        self.failures: list[str] = []
        self._lock = threading.Lock()

    def ask(self, number: int) -> None:
        """One conversation of one user."""
        row = self.rows[number % len(self.rows)]
        try:
            got = self.client.chat.completions.create(
                model="production",
                messages=[{"role": "user", "content": row["instruction"]}],
                user=f"{self.name} {number}",
                temperature=0,
                max_tokens=4,
            )
        except Exception as error:  # noqa: BLE001  # counted: no user may be left without an answer
            self.failures.append(repr(error))
            return
        is_wrong = (got.choices[0].message.content or "").strip() != row["output"]
        with self._lock:
            self.answers[got.model] += 1
            self.wrong[got.model] += is_wrong
        rating = {"completion_id": got.id, "rating": "down" if is_wrong else "up"}
        httpx.post(f"{self.client.base_url}feedback", json=rating, timeout=120)

    def ask_until_it_ends(self, bot: Workspace, most: int) -> int:
        """Conversations until the canary has ended, `most` at most; returns how many there were."""
        asked = 0
        with ThreadPoolExecutor(NUM_USERS) as threads:
            while state_of(bot) not in ENDS and asked < most:
                list(threads.map(self.ask, range(asked, asked + 2 * NUM_USERS)))
                asked += 2 * NUM_USERS
        return asked


def state_of(bot: Workspace) -> str:
    """Of the last canary."""
    last = canary_store.read(bot).last
    return last.state if last else "none"


@contextmanager
def served(bot: Workspace) -> Iterator[tuple[OpenAI, Any]]:
    """A server of the workspace in this process."""
    from llama_factory.config.loading import load_to_answer
    from llama_factory.model.chat.prompt_format import USUAL

    canary = {
        "fraction": FRACTION,
        "tolerated": TOLERATED,
        "watch": ["errors", "thumbs_down"],
        "patience_minutes": 0.05,
    }
    config = load_to_answer(bot.settings, {})
    settings = ServingSettings(port=0, poll_seconds=0.1, canary=canary)
    engine = settings.engine.open(config.model, bot, USUAL, config.inference)
    app = create_app(bot, settings, engine)
    listener, server = listen(settings), Server(app, gateway=app.state.gateway)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    try:
        wait_until(lambda: server.started, "the start of the server")
        yield OpenAI(base_url=url, api_key="none", max_retries=0, timeout=120), app.state.gateway
    finally:
        server.should_exit = True
        thread.join()


def wait_until(is_done: Any, what: str, seconds: float = 120) -> None:
    """Return as soon as something is so."""
    end = time.monotonic() + seconds
    while not is_done():
        if time.monotonic() > end:
            raise SystemExit(f"{what} did not happen within {seconds:.0f} s")
        time.sleep(0.05)


def learn(bot: Workspace, name: str, rows: list[Row], changes: list[str]) -> Any:
    """A round on these rows."""
    path = bot.inbox / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    started = time.perf_counter()
    done = lf.learn(bot, changes)
    path.unlink(missing_ok=True)
    seconds = time.perf_counter() - started
    print(f"{name}: {done.version.id} {done.verdict.word} in {seconds:.0f} s", file=sys.stderr)
    return done


def try_candidate(bot: Workspace, name: str, rows: list[Row], most: int) -> dict[str, Any]:
    """Have users try the candidate; returns what came of it."""
    with served(bot) as (client, gateway):
        wait_until(lambda: state_of(bot) == "running", "the beginning of the canary")
        standing = canary_store.read(bot).last.standing
        wait_until(lambda: gateway.versions.is_ready(standing.candidate), "the candidate")
        users, started = Users(client, rows, name), time.perf_counter()
        num = users.ask_until_it_ends(bot, most)
        seconds = time.perf_counter() - started
        time.sleep(1)
        after = Users(client, rows, "after")
        for number in range(8):
            after.ask(number)
    last = canary_store.read(bot).last
    ours, theirs = last.evidence["thumbs_down"].seen
    return {
        "candidate": name,
        "version": standing.candidate,
        "production": standing.production,
        "ended": last.state,
        "why": last.why,
        "conversations": num,
        "failed": len(users.failures) + len(after.failures),
        "production_bad": [ours.bad, ours.count],
        "candidate_bad": [theirs.bad, theirs.count],
        "seconds": seconds,
        "answers_after": dict(after.answers),
        "released": releases.read(bot.releases).production,
    }


def exchanged(rows: list[Row]) -> list[Row]:
    """The rows with each label replaced by another one."""
    labels = sorted({row["output"] for row in rows})
    after = dict(zip(labels, [*labels[1:], labels[0]], strict=True))
    return [row | {"output": after[row["output"]]} for row in rows]


def run(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Three rounds and two canaries."""
    rows = read_rows(options.data / "SST-2")
    random.Random(1).shuffle(rows)
    count = 12 if options.quick else options.rows
    first, more, poison, asked = (
        rows[:count],
        rows[count : 2 * count],
        rows[2 * count : 3 * count],
        rows[3 * count :],
    )
    fast = ["training.max_steps=2", "gate.max_drop=1", "gate.max_guard_ratio=100"]
    changes = fast if options.quick else ["gate.max_drop=0.3", "gate.max_guard_ratio=2"]
    most = 24 if options.quick else options.most
    bot = lf.init(folder, options.model)
    learned = learn(bot, "reviews", first, changes)
    if not learned.is_released:
        lf.promote(bot, learned.version.id)
    results = []
    good = learn(bot, "more", more, [*changes, "gate.release=canary"])
    if not good.is_tried:
        operate.start_canary(bot, good.version.id, FRACTION)
    results.append(try_candidate(bot, "good", asked, most) | {"gate": good.verdict.word})
    bad = learn(bot, "poison", exchanged(poison), [*changes, "gate.release=canary"])
    if not bad.is_tried:
        operate.start_canary(bot, bad.version.id, FRACTION)
    results.append(try_candidate(bot, "poisoned", asked, most) | {"gate": bad.verdict.word})
    return results


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="the folder cl_benchmark")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--rows", type=int, default=60, help="a round")
    parser.add_argument("--most", type=int, default=1600, help="conversations of a canary")
    parser.add_argument("--quick", action="store_true", help="a smoke run")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = run(options, Path(folder) / "bot")
    names = ("candidate", "gate", "ended", "conversations", "failed")
    rows = [
        [
            *(r[name] for name in names),
            *(f"{b} of {n}" for b, n in (r["production_bad"], r["candidate_bad"])),
            r["seconds"],
        ]
        for r in results
    ]
    columns = [
        "candidate",
        "gate",
        "canary",
        "conversations",
        "failed",
        "wrong: production",
        "wrong: candidate",
        "seconds",
    ]
    print_table("Users who turn their thumb down at wrong answers", columns, rows)
    for result in results:
        print(f"\n{result['candidate']}: {result['why']}; {result['released']} answers")
    write_results(options.out, {"runs": results})


if __name__ == "__main__":
    main()
