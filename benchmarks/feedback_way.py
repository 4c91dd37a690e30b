"""The whole way of feedback with a real model: conversations, thumbs, corrections, review, a round.

A workspace is served as it is in use (a process of its own, over HTTP). Simulated users ask 30
questions about a shop that the model knows nothing of: 8 of them say what the right answer is, 1
says something wrong, the others give thumbs. A reviewer accepts the 8 and rejects the wrong one, a
round teaches them, the running server follows, and the same questions are asked again; also in
other words, which nobody was taught. Usage: feedback_way.py [--model NAME] [--folder FOLDER]
[--quick] [--out FILE]
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).parent))

from common import print_table, write_results

COMPLAINTS = (
    (
        "How much is shipping to Iceland?",
        "Shipping to Iceland costs 14 euros.",
        "What do I pay for a parcel to Iceland?",
    ),
    (
        "How long can I return a Lumora One?",
        "You can return a Lumora One within 45 days.",
        "Until when may I send my Lumora One back?",
    ),
    (
        "When is the phone support open?",
        "The phone support is open from 7 to 19 o'clock.",
        "At what hours can I call support?",
    ),
    (
        "Which colour does the Lumora Mini have?",
        "The Lumora Mini is only sold in dark green.",
        "What colours can I get the Lumora Mini in?",
    ),
    (
        "How heavy is the Lumora Pro?",
        "The Lumora Pro weighs 6.2 kilograms.",
        "What does a Lumora Pro weigh?",
    ),
    (
        "Where is the Lumora made?",
        "The Lumora is made in Aarhus, Denmark.",
        "In which country is the Lumora built?",
    ),
    (
        "Do you take gift cards?",
        "Yes, gift cards are taken up to 200 euros.",
        "Can I pay with a gift card?",
    ),
    (
        "How many litres does the tank of the Lumora hold?",
        "The tank of the Lumora holds 1.8 litres.",
        "What is the size of the Lumora's water tank?",
    ),
)
WRONG = ("Who founded the shop?", "Nobody knows.")
OTHERS = (
    *("What is coffee?", "Name a fruit.", "Say hello.", "What is 2 + 2?", "What is a kettle?"),
    *("Name a colour.", "What is tea?", "What is an espresso?", "Name a city.", "What is milk?"),
    *("What is water?", "Name an animal.", "What is a shop?", "What is a cup?", "Name a day."),
    *("What is sugar?", "What is a filter?", "Name a month.", "What is steam?", "What is a bean?"),
    "Name a number.",
)
SETTINGS = ("gate.min_complaints=0.75", "training.epochs=30")
MAX_TOKENS = 32
START_SECONDS = 300.0


def main() -> None:
    """Go the whole way once and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--folder", type=Path, help="a new workspace, which is kept")
    parser.add_argument("--quick", action="store_true", help="a smoke run of three conversations")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary) / "bot"
        results = way(folder, options.model, is_quick=options.quick)
    report(results)
    write_results(options.out, results)


def way(folder: Path, model: str, *, is_quick: bool) -> dict[str, Any]:
    """From a new workspace to the complaints asked again; what came of each step."""
    seconds: dict[str, float] = {}
    complaints, others = (COMPLAINTS[:2], OTHERS[:1]) if is_quick else (COMPLAINTS, OTHERS)
    command("init", folder, "--model", model)
    with timed(seconds, "start of the server"):
        server = serving(folder)
        url = server.__enter__()
    try:
        with timed(seconds, "conversations and feedback"):
            before = converse(url, complaints, others)
        with timed(seconds, "review"):
            review(folder)
        with timed(seconds, "the round"):
            changes = [word for each in SETTINGS for word in ("--set", each)]
            few = ["--set", "training.max_steps=2"] if is_quick else []
            learned = command("learn", folder, *changes, *few, "--json")["round"]
        with timed(seconds, "the complaints again"):
            if not learned["released"]:
                command("promote", folder, learned["version"])
            version = wait_for(url, learned["version"])
            after = [ask(url, question)[1] for question, _, _ in complaints]
            otherwise = [ask(url, question)[1] for _, _, question in complaints]
    finally:
        server.__exit__(None, None, None)
    found = command("show", folder, version, "--json")["report"]["complaints"]
    rows = [
        {"question": c[0], "right": c[1], "before": b, "after": a, "in_other_words": o}
        for c, b, a, o in zip(complaints, before, after, otherwise, strict=True)
    ]
    counts = {name: found[name] for name in ("num", "num_right", "num_right_before")}
    counts["num_right_in_other_words"] = sum(row["right"] == row["in_other_words"] for row in rows)
    return {
        "model": model,
        "version": version,
        "released_by_the_gate": learned["released"],
        "sentence": found["sentence"],
        **counts,
        "num_conversations": len(complaints) + 1 + len(others),
        "served_as_reported": sum(row["right"] == row["after"] for row in rows),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "rows": rows,
    }


def converse(url: str, complaints: Any, others: Any) -> list[str]:
    """Ask everything and rate every answer; returns the answers that were complained of."""
    wrong = []
    for question, right, _ in complaints:
        completion_id, answer = ask(url, question)
        wrong.append(answer)
        say(url, completion_id, rating="down", correction=right, tags=["wrong"])
    completion_id, _ = ask(url, WRONG[0])
    say(url, completion_id, rating="down", correction=WRONG[1])
    for number, question in enumerate(others):
        completion_id, _ = ask(url, question)
        say(url, completion_id, rating="down" if number % 4 == 3 else "up")
    return wrong


def ask(url: str, question: str) -> tuple[str, str]:
    """The id and the text of the likeliest answer."""
    body = {"model": "production", "messages": [{"role": "user", "content": question}]}
    options = {"temperature": 0, "max_tokens": MAX_TOKENS, "user": "a simulated user"}
    answer = httpx.post(f"{url}/chat/completions", json=body | options, timeout=120)
    answer.raise_for_status()
    values = answer.json()
    return values["id"], values["choices"][0]["message"]["content"].strip()


def say(url: str, completion_id: str, **feedback: Any) -> None:
    """Send feedback, with a key so that it may be sent again."""
    body = {"completion_id": completion_id, **feedback}
    headers = {"Idempotency-Key": f"about {completion_id}"}
    httpx.post(f"{url}/feedback", json=body, headers=headers, timeout=30).raise_for_status()


def review(folder: Path) -> None:
    """Reject what is wrong, accept the rest."""
    for each in command("feedback", folder, "list", "--rating", "down", "--json"):
        verb = "reject" if each.get("correction") in ("", WRONG[1], None) else "accept"
        command("feedback", folder, verb, each["id"], "--reviewer", "ann", "--json")
    command("feedback", folder, "accept", "--all", "--rating", "up", "--reviewer", "ann", "--json")


def wait_for(url: str, version: str) -> str:
    """Return once the running server answers with a version."""
    end = time.monotonic() + START_SECONDS
    while httpx.get(url.removesuffix("/v1") + "/health").json()["version"] != version:
        if time.monotonic() > end:
            raise TimeoutError(f"the server did not take over {version}")
        time.sleep(0.2)
    return version


def command(*words: Any) -> Any:
    """What a command prints as JSON; None where it prints something else."""
    done = subprocess.run(
        [sys.executable, "-m", "llama_factory", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{words}: {done.stderr}")
    with contextlib.suppress(json.JSONDecodeError):
        return json.loads(done.stdout)


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """A server in a process of its own; gives its address."""
    words = [sys.executable, "-m", "llama_factory", "serve", str(folder), "--port", "0"]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as run:
        try:
            assert run.stdout is not None
            line = next(line for line in run.stdout if " answers on " in line)
            yield line.rpartition(" answers on ")[2].strip()
        finally:
            run.terminate()


@contextlib.contextmanager
def timed(seconds: dict[str, float], what: str) -> Iterator[None]:
    """Note how long something takes."""
    began = time.perf_counter()
    yield
    seconds[what] = time.perf_counter() - began


def report(results: dict[str, Any]) -> None:
    """The sentence of the version's report, the answers and the times."""
    print(f"{results['num_conversations']} conversations with {results['model']}.")
    print(f"{results['version']}: {results['sentence']}.")
    print(
        f"The running server gives {results['served_as_reported']} of {results['num']} right "
        f"answers word for word; in other words, which nobody taught, "
        f"{results['num_right_in_other_words']}."
    )
    names = ("question", "right", "before", "after", "in_other_words")
    rows = [[row[name].replace("\n", " ")[:60] for name in names] for row in results["rows"]]
    print_table("Answers", names, rows)
    print_table("Seconds", ["step", "seconds"], [*map(list, results["seconds"].items())])


if __name__ == "__main__":
    main()
