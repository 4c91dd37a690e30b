"""How many small faults, planted one by one, the tests of a module notice (mutation testing).

mutmut plants them; a module meets only the tests that are meant for it, so that each fault costs a
second or two. It leaves decorated functions alone, so in the copy that it works on a decorator is
written as a call behind the function. Text in f-strings, constants and fields of classes stay as
they are. What survives is written to `.work/mutation/survivors.txt` as differences of code.

    mutation.py [gate releases merging batching draft] [--survivors] [--children 2] [--out FILE]
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import chdir
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import common
import libcst
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.stats import status_by_exit_code

ROOT = Path(__file__).parents[1]
WORK = Path(__file__).parent / ".work/mutation"
PACKAGE = Path("src/llama_factory")
NOTICED = ("killed", "timeout")
"""A fault that makes a test run for ever is noticed too."""
QUICK = "*releases.x__checked*"
"""The faults that `--quick` plants."""


@dataclass(frozen=True)
class Part:
    """What is mutated together.

    Attributes:
        files: in the package.
        tests: that must notice; fast ones.
        without: tests among them that cost too much, as pytest's `-k` writes them.
    """

    files: tuple[str, ...]
    tests: tuple[str, ...]
    without: str = ""


PARTS = {
    "gate": Part(("rounds/gate.py",), ("tests/rounds/test_gate.py",)),
    "releases": Part(("versions/releases.py",), ("tests/versions",), "not two_writers"),
    "merging": Part(
        ("continual/merging.py", "continual/low_rank.py", "continual/strategies/merge.py"),
        (
            "tests/continual/test_merging.py",
            "tests/continual/test_low_rank.py",
            "tests/continual/strategies/test_merge.py",
        ),
        "not frozen_layers and not resumed_run and not plain_training",  # they train
    ),
    "batching": Part(("training/batch.py",), ("tests/training/test_batch.py",)),
    "draft": Part(("rounds/draft.py",), ("tests/rounds/test_draft.py",)),
}


@dataclass(frozen=True)
class Fault:
    """One planted fault.

    Attributes:
        name: as mutmut calls it.
        file: that it was planted in.
        status: `killed`, `survived`, `timeout`, `no tests` or another of mutmut's words.
    """

    name: str
    file: str
    status: str


class DecoratorsAsCalls(libcst.CSTTransformer):
    """`@property def f` as `def f` and `f = property(f)`, which means the same."""

    def leave_FunctionDef(  # noqa: N802
        self, original_node: libcst.FunctionDef, updated_node: libcst.FunctionDef
    ) -> Any:
        """Write the decorators of one function as calls."""
        name, whole = updated_node.name.value, libcst.Module([])
        made = name
        for decorator in reversed(updated_node.decorators):
            made = f"{whole.code_for_node(decorator.decorator)}({made})"
        if made in (name, f"classmethod({name})"):
            return updated_node
        call = libcst.parse_statement(f"{name} = {made}")
        return libcst.FlattenSentinel([updated_node.with_changes(decorators=[]), call])


def lay_out(part: Part, folder: Path) -> None:
    """The program and its tests as they are now, and what mutmut has to know."""
    strange = shutil.ignore_patterns("*.egg-info", "__pycache__")
    for name in ("src", "tests"):
        shutil.rmtree(folder / name, ignore_errors=True)
        shutil.copytree(ROOT / name, folder / name, ignore=strange)
    for file in part.files:
        path = folder / PACKAGE / file
        module = libcst.parse_module(path.read_text(encoding="utf-8"))
        path.write_text(module.visit(DecoratorsAsCalls()).code, encoding="utf-8")
    write_settings(part, folder)


def write_settings(part: Part, folder: Path) -> None:
    """What mutmut mutates, and which tests it runs."""
    chosen = [*part.tests, *(("-k", part.without) if part.without else ())]
    settings = {
        "source_paths": ["src"],
        "only_mutate": [str(PACKAGE / file) for file in part.files],
        "pytest_add_cli_args_test_selection": chosen,
        "pytest_add_cli_args": ["-p", "no:cacheprovider"],
        "use_git_change_detection": False,
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    text = "\n".join([project, "[tool.mutmut]", *lines, ""])
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")


def plant(folder: Path, names: Sequence[str], children: int) -> None:
    """Plant the faults with these names, or all, one after the other."""
    command = [sys.executable, "-m", "mutmut", "run", "--max-children", str(children), *names]
    mutated = folder / "mutants/src"
    mutated.mkdir(parents=True, exist_ok=True)  # Python never looks again where nothing was
    changed = {"PYTHONPATH": str(mutated)}
    done = subprocess.run(
        command, cwd=folder, env=os.environ | changed, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"mutmut could not run in {folder}:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")


def forget_missed(part: Part, folder: Path) -> None:
    """Let mutmut plant again what was not killed, and what is new; the rest it leaves out."""
    for file in part.files:
        path = meta(folder, file)
        values = json.loads(path.read_text(encoding="utf-8"))
        codes = values["exit_code_by_key"]
        values["exit_code_by_key"] = {
            name: code if status_by_exit_code[code] == "killed" else None
            for name, code in codes.items()
        }
        path.write_text(json.dumps(values), encoding="utf-8")
    (folder / "mutants/mutmut-stats.json").unlink(missing_ok=True)  # which test meets what


def meta(folder: Path, file: str) -> Path:
    """Where mutmut keeps what became of the faults of a file."""
    return folder / "mutants" / PACKAGE / f"{file}.meta"


def faults(part: Part, folder: Path) -> list[Fault]:
    """What became of each fault that was planted."""
    found = []
    for file in part.files:
        codes = json.loads(meta(folder, file).read_text(encoding="utf-8"))["exit_code_by_key"]
        found += [Fault(name, file, status_by_exit_code[code]) for name, code in codes.items()]
    return [fault for fault in found if fault.status != "not checked"]


def difference(fault: Fault, folder: Path) -> str:
    """What a fault changes, as lines of a diff."""
    with chdir(folder):
        lines = get_diff_for_mutant(fault.name, path=PACKAGE / fault.file).splitlines()
    return "\n".join(line for line in lines if not line.startswith(("---", "+++")))


def summed_up(name: str, found: Sequence[Fault], folder: Path) -> dict[str, Any]:
    """The numbers of a part, and each fault that nobody noticed."""
    counts = Counter(fault.status for fault in found)
    missed = [fault for fault in found if fault.status not in NOTICED]
    return {
        "part": name,
        "mutants": len(found),
        **{status.replace(" ", "_"): count for status, count in counts.items()},
        "share_killed": (len(found) - len(missed)) / len(found),
        "missed": [asdict(fault) | {"change": difference(fault, folder)} for fault in missed],
    }


def run(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Mutate one part."""
    part, folder = PARTS[name], WORK / ("quick" if args.quick else name)
    if args.survivors and (folder / "mutants").is_dir():
        forget_missed(part, folder)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    lay_out(part, folder)
    plant(folder, [QUICK] if args.quick else [], args.children)
    return summed_up(name, faults(part, folder), folder)


def report(runs: Sequence[dict[str, Any]], survivors: Path) -> None:
    """The table, and the file of what survived."""
    columns = ("mutants", "killed", "survived", "timeout", "no_tests", "share_killed")
    rows = [[each["part"], *(each.get(column, 0) for column in columns)] for each in runs]
    common.print_table("Faults that the tests noticed", ("module", *columns), rows)
    texts = [
        f"# {each['part']}: {fault['name']}: {fault['status']}\n{fault['change']}\n"
        for each in runs
        for fault in each["missed"]
    ]
    survivors.write_text("\n".join(texts), encoding="utf-8")
    print(f"\nWhat nobody noticed: {survivors}")


def main() -> None:
    """Mutate the parts asked for, one after the other."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "parts", nargs="*", choices=[*PARTS, []], metavar="PART", help="all of them by default"
    )
    parser.add_argument(
        "--survivors", action="store_true", help="only what was not killed last time"
    )
    parser.add_argument("--children", type=int, default=2, help="processes at the same time")
    parser.add_argument("--quick", action="store_true", help="one function of releases")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    names = ["releases"] if args.quick else args.parts or list(PARTS)
    runs = []
    for name in names:
        print(f"{name} ...", file=sys.stderr)
        runs.append(run(name, args))
    report(runs, WORK / "quick/survivors.txt" if args.quick else WORK / "survivors.txt")
    common.write_results(args.out, {"runs": runs})


if __name__ == "__main__":
    main()
