"""Ten rounds of a workspace's life on real rows, with everything that happens in months.

A file that grows, a round that an operator overrules, one that the gate refuses, another metric, a
consolidation, and kill -9 in each phase of a round. At the end every row that was dropped is in
the released lineage exactly once. Usage: ten_rounds.py PATH/TO/cl_benchmark [--model NAME]
[--rows 40] [--folder BOT] [--quick] [--out FILE]
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parent))
import common

from llama_factory.core.files import read_jsonl
from llama_factory.evaluation import wording
from llama_factory.versions import releases, store
from llama_factory.versions.workspace import Workspace

SETS = ("SST-2", "agnews", "amazon", "dbpedia", "yelp", "BoolQA")
MOST_CHARACTERS = 300
HARMFUL = ["--set", "strategies=naive", "--set", "training.learning_rate=0.02"]
"""Settings under which a round loses general ability: what the gate is there for."""

PHASES: dict[str, Callable[[Path], bool]] = {
    "reading": lambda draft: draft.exists() and not (draft / "plan.json").exists(),
    "testing before": lambda draft: (draft / "testing").exists(),
    "training": lambda draft: num_lines(draft / "metrics.jsonl") >= 2,
    "testing after": lambda draft: any((draft / "testing").glob("on-all-rounds*/*.jsonl")),
    "finishing": lambda draft: (draft / "report.json").exists(),
    "consolidating": lambda draft: draft.exists(),
}
"""How each phase of a round shows in the folder in which its version is built."""


class Life:
    """A workspace, driven through the command line as a person drives it."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder, self.options = folder, options
        self.rows = {name: read_rows(options.data / name) for name in SETS}
        self.dropped: list[str] = []
        self.log: list[dict[str, Any]] = []

    @property
    def bot(self) -> Workspace:
        """The workspace."""
        return Workspace.open(self.folder)

    def call(self, *words: str) -> str:
        """Run a command to its end; returns what it prints."""
        done = subprocess.run(command(*words), capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(words)} failed:\n{done.stderr}\n{done.stdout}")
        return done.stdout

    def drop(self, name: str, count: int, *, source: str | None = None) -> None:
        """Append rows to a file of the inbox, and to its file of tests."""
        source = source or name
        for suffix, number in (("", count), (".test", max(5, count // 4))):
            taken = [self.rows[source].pop() for _ in range(number)]
            self.dropped += [row["instruction"] for row in taken]
            with (self.bot.inbox / f"{name.lower()}{suffix}.jsonl").open("a") as file:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in taken)

    def learn(self, what: str, *words: str, kill: str = "") -> dict[str, Any]:
        """A round, killed once in a phase where one is named; noted in the table."""
        started = time.perf_counter()
        killed = self.kill(kill, "learn", str(self.folder), *words) if kill else ""
        done = json.loads(self.call("learn", str(self.folder), "--json", *words))["round"]
        found = done or {"version": "-", "verdict": {}, "released": False, "new": False}
        self.note(what, found, killed=killed, seconds=time.perf_counter() - started)
        return found

    def begin(self, phase: str, *words: str) -> subprocess.Popen[bytes]:
        """Start a command and leave it running as soon as a phase shows."""
        silent = subprocess.DEVNULL
        process = subprocess.Popen(command(*words), stdout=silent, stderr=silent)
        while process.poll() is None and not PHASES[phase](self.bot.building):
            time.sleep(0.002)
        return process

    def kill(self, phase: str, *words: str) -> str:
        """Begin a command and end it with SIGKILL as soon as a phase shows."""
        process = self.begin(phase, *words)
        process.kill()
        return phase if process.wait() == -signal.SIGKILL else f"{phase}: over before the kill"

    def learn_beside(self, what: str, action: Callable[[], None]) -> dict[str, Any]:
        """A round, beside which something else happens while it trains; noted in the table."""
        process = self.begin("training", "learn", str(self.folder))
        action()
        process.wait()
        newest = store.get(self.bot, store.ids(self.bot)[-1])
        found = {"version": newest.id, "verdict": newest.report["verdict"], "new": True}
        found["released"] = self.production == newest.id
        self.note(what, found, killed="", seconds=0)
        return found

    @property
    def production(self) -> str:
        """The released version."""
        return releases.read(self.bot.releases).production

    def note(self, what: str, found: dict[str, Any], *, killed: str, seconds: float) -> None:
        """One line of the table."""
        verdict = found["verdict"]
        word = "nothing new"
        if verdict:
            word = wording.verdict(promoted=verdict["promoted"], held=verdict["held"])
        if verdict and not found["new"]:
            word = "made before, not trained again"
        failed = [check["reason"] for check in verdict.get("checks", ()) if not check["passed"]]
        line = {
            "event": what,
            "killed in": killed,
            "version": found["version"],
            "gate": word,
            "released": found["released"],
            "production": self.production,
            "seconds": round(seconds),
            "why": "; ".join(failed),
        }
        self.log.append(line)
        print(" | ".join(f"{name}: {value}" for name, value in line.items()), flush=True)

    def operate(self, what: str, *words: str) -> None:
        """What an operator does; noted in the table."""
        said = self.call(*words).strip()
        self.log.append({"event": f"{what}: {said}", "production": self.production})
        print(f"{what}: {said}", flush=True)

    def accept(self, found: dict[str, Any]) -> None:
        """A person releases what the gate refused, so that the life goes on."""
        if found["version"] != "-" and not found["released"]:
            self.operate("operator accepts", "promote", str(self.folder), found["version"])

    def set(self, section: str, **values: Any) -> None:
        """Change factory.yaml as an editor would."""
        settings = yaml.safe_load(self.bot.settings.read_text(encoding="utf-8"))
        settings[section] = (settings.get(section) or {}) | values
        text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
        self.bot.settings.write_text(text, encoding="utf-8")


def command(*words: str) -> list[str]:
    """The program's command line."""
    return [sys.executable, "-m", "llama_factory", *words]


def num_lines(path: Path) -> int:
    """Lines of a file; none where there is none."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def read_rows(folder: Path) -> list[dict[str, str]]:
    """A labelled set as questions with the label as answer, each text once, in a fixed order."""
    labels = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
    listed = labels if isinstance(labels, list) else next(iter(labels.values()))
    options = ", ".join(map(str, listed))
    rows: dict[str, dict[str, str]] = {}
    for path in sorted(folder.glob("t*.json")):
        for row in json.loads(path.read_text(encoding="utf-8")):
            text = str(row["sentence"])[:MOST_CHARACTERS].strip()
            question = f"Choose one from the option.\nOption: {options}\n{text}\nAnswer:"
            rows.setdefault(text, {"instruction": question, "output": str(row["label"])})
    found = list(rows.values())
    random.Random(0).shuffle(found)
    return found


def live(life: Life) -> None:
    """The ten rounds."""
    count, folder = life.options.rows, str(life.folder)
    life.call("init", folder, "--model", life.options.model)
    life.set("training", epochs=2, batch_size=8, checkpoint_steps=2)
    life.set("evaluation", max_new_tokens=8, max_rows=20)
    life.set("gate", max_drop=0.25)
    # Two of the sets ask about sentiment in the same words: rows of one may look like the other's.
    life.set("data", cleaning=["empty", "length"])
    for name, phase in (("SST-2", "reading"), ("agnews", "testing before"), ("amazon", "training")):
        life.drop(name, count)
        life.accept(life.learn(f"{name} arrives", kill=phase))
    grow(life, count)
    life.drop("yelp", count)
    overrule(life)
    harm(life, count)
    life.drop("BoolQA", count)
    life.set("evaluation", metrics=["exact_match", "token_f1", "chrf"])
    life.set("gate", metric="chrf")
    life.accept(life.learn("BoolQA arrives, and the gate's metric is another one"))
    consolidate(life)
    life.drop("sst-2", count // 2, source="SST-2")
    life.accept(life.learn("more of SST-2, on consolidated weights", kill="finishing"))
    life.learn("nothing arrived")


def grow(life: Life, count: int) -> None:
    """Rows come while the round that reads their file trains; the next round teaches them."""
    life.drop("dbpedia", count)
    what = "dbpedia arrives, and grows while it is taught"
    life.accept(life.learn_beside(what, lambda: life.drop("dbpedia", count // 2)))
    life.accept(life.learn("what dbpedia grew by", kill="testing after"))


def overrule(life: Life) -> None:
    """An operator goes back while a round trains: its version is held, and accepted later."""
    before, folder = life.production, str(life.folder)
    life.learn_beside(
        "yelp arrives, and the release is moved meanwhile",
        lambda: life.operate("operator, while yelp is taught", "rollback", folder),
    )
    life.operate("operator", "promote", folder, before)
    life.accept(life.learn("the same files, settings and parent again"))
    life.learn("yelp's files once more: all taught")


def harm(life: Life, count: int) -> None:
    """A round that loses general ability is refused, and not trained again."""
    name = "harmful"
    before = len(life.dropped)
    life.drop(name, count, source="amazon")
    life.learn("a harmful round", *HARMFUL)
    life.learn("the same again", *HARMFUL)
    del life.dropped[before:]  # a person takes the files away
    for path in life.bot.inbox.glob(f"{name}*"):
        path.unlink()
    life.operate("operator looks", "versions", str(life.folder), "--json")


def consolidate(life: Life) -> None:
    """All updates go into the weights; killed once."""
    killed = life.kill("consolidating", "consolidate", str(life.folder))
    started = time.perf_counter()
    done = json.loads(life.call("consolidate", str(life.folder), "--json"))
    found = {**done, "released": life.production == done["version"], "new": True}
    life.note("consolidation", found, killed=killed, seconds=time.perf_counter() - started)
    life.accept(found)


def account(life: Life) -> dict[str, Any]:
    """Where each row that was dropped is in the released lineage."""
    lineage = store.lineage(store.get(life.bot, releases.PRODUCTION))
    sides = [
        row["messages"][-2]["content"]
        for version in lineage
        for side in ("train", "held_out")
        for row in read_jsonl(version.folder / f"data/{side}.jsonl")
    ]
    times, wanted = Counter(sides), Counter(life.dropped)
    told = Counter()
    for version in lineage:
        told.update(version.report.get("data", {}).get("dropped", {}))
    return {
        "rows dropped into the inbox": len(life.dropped),
        "in the released lineage": len(sides),
        "more than once": sum(count > 1 for count in times.values()),
        "missing": sum(row not in times for row in wanted),
        "not dropped by us": sum(row not in wanted for row in times),
        "left out with a reason": dict(told),
        "files left in the inbox": len(list(life.bot.inbox.glob("*.jsonl"))),
        "damaged versions": sum(bool(damage(life, each)) for each in store.ids(life.bot)),
    }


def damage(life: Life, version_id: str) -> str:
    """What is wrong with a version's files; empty where nothing is."""
    try:
        store.get(life.bot, version_id)
    except Exception as error:  # noqa: BLE001  # counted
        return str(error)
    return ""


def main() -> None:
    """Live through the rounds and print what a person reads."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with SST-2/, agnews/ and the others")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--rows", type=int, default=40, help="rows to teach a round")
    parser.add_argument("--folder", type=Path, help="where the workspace goes; empty: a new one")
    parser.add_argument("--quick", action="store_true", help="a smoke run of a few rows")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.quick:
        options.rows = 8
    with tempfile.TemporaryDirectory() as folder:
        life = Life(options.folder or Path(folder) / "bot", options)
        live(life)
        print(life.call("versions", str(life.folder)))
        print(life.call("show", str(life.folder)))
        history = releases.read(life.bot.releases).history
        common.print_table(
            "releases.json",
            ("time", "production", "candidate", "why"),
            [
                (e.time, e.aliases["production"], e.aliases.get("candidate"), e.why[:120])
                for e in history
            ],
        )
        found = account(life)
        rounds = [line for line in life.log if "version" in line]
        names = list(rounds[0])
        rows = [[line[name] for name in names] for line in rounds]
        common.print_table("rounds", names, rows)
        common.print_table("rows", ("what", "count"), [[k, str(v)] for k, v in found.items()])
        common.write_results(options.out, {"events": life.log, "rows": found})
        if found["more than once"] or found["missing"] or found["damaged versions"]:
            raise SystemExit("a row was lost or taught twice, or a version is damaged")


if __name__ == "__main__":
    main()
