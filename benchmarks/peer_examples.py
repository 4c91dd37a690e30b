"""Which of LLaMA-Factory's own example files this program takes as they are, and why not others.

Usage: peer_examples.py FOLDER [--quick] [--out FILE], where FOLDER is `examples/` of a checkout of
LLaMA-Factory. Nothing is downloaded or trained: each file is read to settings, as `train`, `chat`
and `export` would.
"""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).parent))
import common

from llama_factory.config.dialects.exporting import read_export_request
from llama_factory.config.loading import resolve
from llama_factory.core.errors import FactoryError

OTHER_PROGRAMS = ("accelerate", "deepspeed", "v1", "multi_tokens")
"""Folders whose files are no settings of a run: other programs', another format, lists of words."""
ELSEWHERE = (
    *("Megatron", "KTransformers", "HyperParallel", "v1 kernels", "NPU"),
    *("Mixture-of-Depths", "GPTQ"),
)
"""What is refused by name, with what to use instead: other engines and machines, and formats that
few programs read."""
QUICK = 5


@dataclass(frozen=True)
class Outcome:
    """What came of one file: how it was read, `resolves` or `refused`, and each reason."""

    file: str
    read_as: str
    outcome: str
    reasons: tuple[str, ...] = ()
    capability: str = ""


def main() -> None:
    """Read all files and show what came of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found = [
        _read(path, args.folder) for path in _files(args.folder)[: QUICK if args.quick else None]
    ]
    rows = [(each.file, each.read_as, each.outcome, "; ".join(each.reasons)) for each in found]
    common.print_table("Example files", ("file", "read as", "outcome", "why"), rows)
    counts = Counter(each.outcome for each in found)
    named = Counter(each.capability for each in found if each.capability)
    others = [each.file for each in found if each.outcome == "refused" and not each.capability]
    print(f"\n{len(found)} files: {dict(counts)}; refused for {dict(named)}; for others: {others}")
    results = {"counts": dict(counts), "capabilities": dict(named)}
    common.write_results(args.out, results | {"files": [asdict(each) for each in found]})


def _files(folder: Path) -> list[Path]:
    found = sorted(each for each in folder.rglob("*.yaml"))
    if not found:
        sys.exit(f"{folder}: holds no YAML file. Name the folder `examples` of LLaMA-Factory.")
    return [each for each in found if not set(each.parts) & set(OTHER_PROGRAMS)]


def _read(path: Path, folder: Path) -> Outcome:
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    verb = "export" if "export_dir" in values else "train" if "stage" in values else "chat"
    name = str(path.relative_to(folder))
    try:
        if verb == "export":
            read_export_request(path)
        else:
            resolve(path, num_processes=1)
    except FactoryError as error:
        reasons = tuple(_reasons(str(error), path))
        named = next((each for each in ELSEWHERE if each in str(error)), "")
        return Outcome(name, verb, "refused", reasons, named)
    return Outcome(name, verb, "resolves")


def _reasons(message: str, path: Path) -> Iterator[str]:
    """The lines of a message without the file's own name."""
    for line in message.splitlines():
        told = line.replace(f"{path}: ", "").strip()
        if told and not re.fullmatch(r"\d+ problems?", told):
            yield told


if __name__ == "__main__":
    main()
