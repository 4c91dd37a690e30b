"""Recall and precision of the private-data detectors on a planted set of made-up values.

Sentences come from planted_private.yaml, values from planted_values.py. The held-out sentences
were written after the detectors were done (its head tells their first numbers).
Usage: planted_private.py [--data FOLDER [--show]] [--quick] [--out FILE]. FOLDER's rows are scanned
too; `--show` prints what was found in them, which the results file never holds.
"""

import argparse
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import common
import yaml
from planted_values import FILLERS, VALUES

from llama_factory.text.private import KINDS, find_all

SENTENCES = Path(__file__).with_suffix(".yaml")
PARTS = ("tuning", "held_out")
SLOT = re.compile(r"\{(" + "|".join((*VALUES, *FILLERS)) + r")\}")
KIND_OF_SLOT = {
    **{name: name.removesuffix("_old").removesuffix("_local") for name in VALUES},
    **{"phone_landline": "phone"},
    **dict.fromkeys(("token", "password", "opaque", "credentials", "pem"), "secret"),
}

Found = tuple[int, int, str]


@dataclass(frozen=True)
class Planted:
    """A text and the private data in it: start, end and kind, in characters; none if harmless."""

    text: str
    spans: list[Found]


@dataclass
class Tally:
    """What was planted and found of one kind."""

    planted: int = 0
    covered: int = 0
    found: int = 0
    right: int = 0

    @property
    def recall(self) -> float:
        """Share of planted values that were found whole."""
        return self.covered / self.planted if self.planted else 1.0

    @property
    def precision(self) -> float:
        """Share of findings that touch a planted value of their kind."""
        return self.right / self.found if self.found else 1.0


def make_planted(num: int = 1000, seed: int = 0, *, part: str = "") -> list[Planted]:
    """Sentences with planted private data, all kinds in turn.

    Args:
        num: how many.
        seed: of the values and of the order.
        part: "tuning" or "held_out" sentences, or empty for both.
    """
    parts = [lists["private"] for lists in _sentences(part)]
    return _filled([[s for lists in parts for s in lists[kind]] for kind in parts[0]], num, seed)


def make_harmless(num: int = 1000, seed: int = 0, *, part: str = "") -> list[Planted]:
    """Sentences that hold nothing private, many of which look as if they did."""
    return _filled([[s for lists in _sentences(part) for s in lists["harmless"]]], num, seed)


def _sentences(part: str) -> list[dict[str, Any]]:
    lists = yaml.safe_load(SENTENCES.read_text(encoding="utf-8"))
    return [lists[name] for name in PARTS if part in ("", name)]


def _filled(lists: Sequence[Sequence[str]], num: int, seed: int) -> list[Planted]:
    rng = Random(seed)
    chosen = (
        lists[i % len(lists)][i // len(lists) % len(lists[i % len(lists)])] for i in range(num)
    )
    return [_fill(sentence, rng) for sentence in chosen]


def _fill(sentence: str, rng: Random) -> Planted:
    text, spans, end = "", [], 0
    for slot in SLOT.finditer(sentence):
        text += sentence[end : slot.start()]
        value = (VALUES | FILLERS)[slot[1]](rng)
        if slot[1] in VALUES:
            spans.append((len(text), len(text) + len(value), KIND_OF_SLOT[slot[1]]))
        text, end = text + value, slot.end()
    return Planted(text + sentence[end:], spans)


def measure(planted: Iterable[Planted]) -> dict[str, Tally]:
    """Recall and precision by kind, and of all kinds as `total`."""
    tallies = {name: Tally() for name in (*KINDS, "total")}
    for item in planted:
        found = find_all(item.text)
        for span in item.spans:
            _count(tallies, span[2], planted=1, covered=int(_is_covered(span, found)))
        for span in found:
            _count(tallies, span[2], found=1, right=int(_touches(span, item.spans)))
    return tallies


def _count(tallies: dict[str, Tally], kind: str, **counts: int) -> None:
    for name in (kind, "total"):
        for field, count in counts.items():
            setattr(tallies[name], field, getattr(tallies[name], field) + count)


def _is_covered(span: Found, found: Sequence[Found]) -> bool:
    """Whether findings hide all of a planted value, one of them with its kind."""
    touching = [f for f in found if f[0] < span[1] and span[0] < f[1]]
    hidden = {i for f in touching for i in range(f[0], f[1])}
    return _touches(span, touching) and hidden.issuperset(range(span[0], span[1]))


def _touches(span: Found, others: Iterable[Found]) -> bool:
    return any(o[2] == span[2] and o[0] < span[1] and span[0] < o[1] for o in others)


def real_rows(folder: Path) -> Iterator[tuple[str, str]]:
    """Every row of a folder's JSON, JSONL and text files: file name and all its text."""
    for file in sorted(folder.glob("*")):
        if file.suffix == ".json" and file.name != "dataset_info.json":
            for row in json.loads(file.read_text(encoding="utf-8")):
                yield file.name, "\n".join(_strings(row))
        elif file.suffix == ".jsonl":
            for line in file.read_text(encoding="utf-8").splitlines():
                yield file.name, "\n".join(_strings(json.loads(line)))
        elif file.suffix == ".txt":
            yield from ((file.name, line) for line in file.read_text(encoding="utf-8").splitlines())


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


def scan(rows: Sequence[tuple[str, str]], *, show: bool = False) -> dict[str, Any]:
    """How much of each kind is in real rows, and the time a row takes."""
    find_all("warm-up: +44 20 7946 0123")
    start = time.perf_counter()
    found = [find_all(text) for _, text in rows]
    seconds = time.perf_counter() - start
    counts: Counter[tuple[str, str]] = Counter()
    for (file, text), spans in zip(rows, found, strict=True):
        counts.update((file, kind) for _, _, kind in spans)
        for a, b, kind in spans if show else ():
            print(file, kind, repr(f"{text[max(0, a - 40) : a]}>>{text[a:b]}<<{text[b : b + 20]}"))
    listed = [{"file": file, "kind": kind, "found": n} for (file, kind), n in counts.items()]
    facts = {"rows": len(rows), "characters": sum(len(text) for _, text in rows)}
    return {**facts, "microseconds_per_row": seconds / len(rows) * 1e6, "found": listed}


def main() -> None:
    """Measure both halves, scan the real rows, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="a folder of real rows to scan")
    parser.add_argument("--quick", action="store_true", help="a smoke run on few sentences")
    parser.add_argument("--show", action="store_true", help="print every finding in real rows")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    num = 100 if options.quick else 1000
    results: dict[str, Any] = {"num": num, "runs": []}
    for part in PARTS:
        tallies = measure([*make_planted(num, part=part), *make_harmless(num, part=part)])
        rows = [(k, t.planted, t.recall, t.found, t.precision) for k, t in tallies.items()]
        columns = ("kind", "planted", "recall", "found", "precision")
        common.print_table(f"{part}: {num} private and {num} harmless sentences", columns, rows)
        results["runs"] += [{"part": part, **dict(zip(columns, row, strict=True))} for row in rows]
    if options.data:
        results["real"] = scan(list(real_rows(options.data)), show=options.show)
        rows = [(f["file"], f["kind"], f["found"]) for f in results["real"]["found"]]
        common.print_table("real rows", ("file", "kind", "found"), rows)
        print(f"\n{results['real']['microseconds_per_row']:.1f} microseconds a row")
    common.write_results(options.out, results)


if __name__ == "__main__":
    main()
