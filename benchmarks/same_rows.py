"""Sets of LLaMA-Factory as its own converter reads them and as they are read here, row by row.

Usage: same_rows.py DATA [--peer PYTHON] [--quick] [--out FILE], where DATA is `data/` of a checkout
of LLaMA-Factory, and PYTHON that of an environment with it (else one is made). Compared are the
turns with their roles, calls of tools as names and arguments, the tools, the worse answer of a
pair, what people liked, and the pictures; a row that either leaves out counts as its own.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import common

from llama_factory.core.types import Example, Message
from llama_factory.data.reading import Refused, read_examples
from llama_factory.data.sources.named import local_names, named_sources

PEER_PROGRAM = Path(__file__).parent / "peers/llamafactory_rows.py"
QUICK = ("identity",)
Row = dict[str, Any]
"""Of either program: turns, worse, is_desirable, tools, images."""


@dataclass(frozen=True)
class Compared:
    """One set in both programs.

    Attributes:
        name: of the set.
        num_rows: in its file.
        num_equal: read alike.
        refused: why rows are left out here -> how many.
        differing: what differs in others -> how many.
    """

    name: str
    num_rows: int
    num_equal: int
    refused: dict[str, int]
    differing: dict[str, int]


def main() -> None:
    """Read all sets in both programs and show what differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--peer", type=Path, help="Python of an environment with LLaMA-Factory")
    parser.add_argument("--quick", action="store_true", help="one set, read here only")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    names = list(QUICK) if args.quick else local_names(args.data)
    with tempfile.TemporaryDirectory() as folder:
        if not args.quick:
            python = args.peer or common.llama_factory_python()
            command = [python, PEER_PROGRAM, args.data.resolve(), folder, *names]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        found = [_compared(name, args.data, Path(folder)) for name in names]
    rows = [(c.name, c.num_rows, c.num_equal, _told(c.refused), _told(c.differing)) for c in found]
    columns = ("set", "rows", "equal", "left out here", "different")
    common.print_table("Rows in both programs", columns, rows)
    total = {"rows": sum(c.num_rows for c in found), "equal": sum(c.num_equal for c in found)}
    print(f"\n{len(found)} sets: {total}")
    common.write_results(args.out, total | {"sets": [asdict(each) for each in found]})


def _told(counts: dict[str, int]) -> str:
    return "; ".join(f"{number}: {reason}" for reason, number in counts.items())


def _compared(name: str, data: Path, folder: Path) -> Compared:
    (source,) = named_sources([name], data)
    ours = list(read_examples(source.path, source.layout))
    path = folder / f"{name}.jsonl"
    theirs = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    refused, differing, num_equal = Counter[str](), Counter[str](), 0
    for number, row in enumerate(ours):
        if isinstance(row, Refused):
            refused[row.reason] += 1
        elif number < len(theirs):
            parts = _differences(_ours(row), _theirs(theirs[number], data))
            num_equal += not parts
            differing.update([", ".join(parts)] if parts else [])
    if theirs and len(theirs) != len(ours):
        differing[f"{len(theirs)} rows there"] += 1
    return Compared(name, len(ours), num_equal, dict(refused), dict(differing))


def _differences(ours: Row, theirs: Row) -> list[str]:
    return [part for part in ours if ours[part] != theirs[part]]


def _ours(row: Example) -> Row:
    return {
        "turns": [_turn(each) for each in row.messages],
        "worse": _turn(row.rejected) if row.rejected else None,
        "is_desirable": row.is_desirable,
        "tools": _parsed(row.tools),
        "images": [Path(each).name for each in row.images],
    }


def _turn(message: Message) -> tuple[str, Any]:
    if message.tool_calls:
        return "calls", [(each.name, json.loads(each.arguments)) for each in message.tool_calls]
    role = "user" if message.role == "text" else message.role
    return role, message.content


def _theirs(row: Row, data: Path) -> Row:
    """Their row in the same words: liked and disliked answers stand beside an empty one there."""
    turns = [("system", row["_system"])] if row["_system"] else []
    turns += [_their_turn(each) for each in row["_prompt"]]
    answers = row["_response"]
    is_desirable, worse = None, None
    if len(answers) == 2 and "" in (contents := [each["content"] for each in answers]):
        is_desirable = contents[1] == ""
        answers = [each for each in answers if each["content"]]
    elif len(answers) == 2:
        worse = _their_turn(answers[1])
    turns += [_their_turn(each) for each in answers[:1]]
    return {
        "turns": turns,
        "worse": worse,
        "is_desirable": is_desirable,
        "tools": _parsed(row["_tools"]),
        "images": [Path(each).name for each in row["_images"] or ()],
    }


def _their_turn(turn: Row) -> tuple[str, Any]:
    if turn["role"] != "function":
        return {"observation": "tool"}.get(turn["role"], turn["role"]), turn["content"]
    called = json.loads(turn["content"])
    calls = called if isinstance(called, list) else [called]
    return "calls", [(each["name"], each["arguments"]) for each in calls]


def _parsed(text: Any) -> Any:
    """JSON as values; an empty list is as good as nothing."""
    try:
        return json.loads(text) or None
    except (TypeError, ValueError):
        return text or None


if __name__ == "__main__":
    main()
