"""LLaMA-Factory's own example files really run: two updates, chats, exports and an API.

Usage: peer_runs.py EXAMPLES DATA [--only PART] [--rows N] [--work FOLDER] [--quick] [--out FILE],
where EXAMPLES and DATA are `examples/` and `data/` of a checkout of LLaMA-Factory; files that ran
in FOLDER before are not run again. Of each file only the model (a
tiny random one), the number of updates and the folder that it writes to are replaced, and sets that
do not come with LLaMA-Factory; nothing is reported to services, and answers are short. Adapters and
models that a file expects from an earlier run are those that the files before it made. Nothing is
downloaded.
"""

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))
import common
import peer_examples

from llama_factory import run
from llama_factory.core.errors import FactoryError
from llama_factory.core.progress import SILENT
from tests.tiny import make_tiny_model

FIRST = ("train_lora/qwen3_lora_sft.yaml", "extras/dft/qwen2_full_sft.yaml")
"""Files whose results others expect: an adapter, and a whole model."""
UPDATES = 2
SECONDS = 600
INSTEAD = {"dpo": "dpo_en_demo", "rm": "dpo_en_demo", "kto": "kto_en_demo", "pt": "c4_demo"}
"""Stage -> what is taught where a file names sets that do not come with LLaMA-Factory."""
FOLDER = (
    *("adapter_model.safetensors", "model.safetensors", "README.md", "all_results.json"),
    *("train_results.json", "trainer_state.json", "trainer_log.jsonl", "training_loss.png"),
)
"""What a run leaves, of which one of the first two."""


@dataclass(frozen=True)
class Ran:
    """What came of one file.

    Attributes:
        file: its name.
        verb: the command that took it.
        outcome: `runs`, or `stops` with the reason.
        reason: in our own words, where it stops.
        seconds: that it took.
        loss: of the last update, where something was trained.
        missing: files of FOLDER that are not there.
    """

    file: str
    verb: str
    outcome: str
    reason: str = ""
    seconds: float = 0.0
    loss: float | None = None
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Place:
    """Where everything is.

    Attributes:
        examples: their files.
        data: their sets.
        model: the tiny one.
        work: results.
        rows: most of each set; None for as many as a file says.
    """

    examples: Path
    data: Path
    model: Path
    work: Path
    rows: int | None

    @property
    def adapter(self) -> Path:
        """Of the first file that makes one."""
        return self.work / _slug(FIRST[0])

    @property
    def whole(self) -> Path:
        """A whole model, of the first file that makes one."""
        return self.work / _slug(FIRST[1])

    def model_of(self, values: dict[str, Any]) -> list[str]:
        """The keys of the model, with the ones here in their place."""
        is_made_here = str(values["model_name_or_path"]).startswith("saves/")
        model = self.whole if is_made_here else self.model
        if "freeze_trainable_layers" in values:
            layers = 2 * abs(values["freeze_trainable_layers"])
            model = make_tiny_model(self.work / f"tiny-{layers}", num_layers=layers)
        changes = [f"model_name_or_path={model}"]
        if "adapter_name_or_path" in values:
            changes.append(f"adapter_name_or_path={self.adapter}")
        return changes


def main() -> None:
    """Run all files and show what came of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("examples", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", default="", help="a part of the names of files")
    parser.add_argument("--rows", type=int, help="most rows of each set")
    parser.add_argument("--work", type=Path, help="kept, with what came of each file")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = (args.work or Path(folder)).resolve()
        model = make_tiny_model(work / "tiny")
        place = Place(args.examples.resolve(), args.data.resolve(), model, work, args.rows)
        found = [*_all(place, args.only, is_quick=args.quick)]
    rows = [(r.file, r.verb, r.outcome, r.loss, ", ".join(r.missing), r.reason) for r in found]
    columns = ("file", "by", "outcome", "loss", "not in the folder", "why")
    common.print_table("Example files, run", columns, rows)
    counts = Counter(f"{each.verb} {each.outcome}" for each in found)
    print(f"\n{len(found)} files: {dict(counts)}")
    common.write_results(args.out, {"counts": dict(counts), "files": [*map(asdict, found)]})


def _all(place: Place, only: str, *, is_quick: bool) -> Iterator[Ran]:
    paths = peer_examples._files(place.examples)
    first = [place.examples / name for name in FIRST]
    others = [path for path in paths if path not in first]
    for path in [*first, *([] if is_quick else others)]:
        if path in first or only in str(path):
            ran = _known(path, place)
            print(f"{ran.file}: {ran.outcome} {ran.reason}", file=sys.stderr, flush=True)
            yield ran


def _known(path: Path, place: Place) -> Ran:
    """What came of a file, now or before."""
    kept = place.work / "ran" / f"{_slug(str(path.relative_to(place.examples)))}.json"
    if kept.is_file():
        return Ran(**json.loads(kept.read_text()))
    ran = _ran(path, place)
    kept.parent.mkdir(exist_ok=True)
    kept.write_text(json.dumps(asdict(ran)))
    return ran


def _ran(path: Path, place: Place) -> Ran:
    name = str(path.relative_to(place.examples))
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    verb = "export" if "export_dir" in values else "train" if "stage" in values else "chat"
    started = time.perf_counter()
    try:
        if verb == "train":
            found = _trained(name, values, place)
        elif verb == "export":
            found = _exported(name, values, place)
        else:
            found = _answered(name, values, place)
    except (FactoryError, subprocess.SubprocessError, OSError) as error:
        reason = " ".join(_lines(str(error), place))
        found = Ran(name, verb, "stops", reason)
    seconds = round(time.perf_counter() - started, 1)
    return Ran(**(asdict(found) | {"seconds": seconds}))


def _trained(name: str, values: dict[str, Any], place: Place) -> Ran:
    output = place.work / _slug(name)
    changes = [*place.model_of(values), f"max_steps={UPDATES}", f"output_dir={output}"]
    changes += [f"dataset_dir={place.data}", "report_to=none", "max_new_tokens=16"]
    for key in ("dataset", "eval_dataset"):
        if key in values and _are_elsewhere(values[key], place):
            changes.append(f"{key}={INSTEAD.get(values['stage'], 'identity')}")
    if place.rows is not None:
        changes.append(f"max_samples={place.rows}")
    if "tokenized_path" in values:
        changes.append(f"tokenized_path={output}")
    results = run.train(place.examples / name, changes, SILENT).results
    if "training" not in results:
        return Ran(name, "train", "runs")
    missing = [each for each in FOLDER if not (output / each).is_file()]
    if "adapter_model.safetensors" in missing or "model.safetensors" in missing:
        missing = [each for each in missing if not each.endswith("model.safetensors")]
    loss = round(results["training"]["loss"], 3)
    return Ran(name, "train", "runs", loss=loss, missing=tuple(missing))


def _are_elsewhere(sets: str, place: Place) -> bool:
    """Whether some of the sets do not come with LLaMA-Factory."""
    known = json.loads((place.data / "dataset_info.json").read_text(encoding="utf-8"))
    places = [known.get(name.strip(), {}).get("file_name") for name in sets.split(",")]
    return not all(each and (place.data / each).is_file() for each in places)


def _exported(name: str, values: dict[str, Any], place: Place) -> Ran:
    output = place.work / _slug(name)
    words = ["export", name, *place.model_of(values), f"export_dir={output}"]
    _command(words, place)
    missing = [
        each for each in ("config.json", "model.safetensors") if not (output / each).exists()
    ]
    return Ran(name, "export", "runs", missing=tuple(missing))


def _answered(name: str, values: dict[str, Any], place: Place) -> Ran:
    """A chat of one turn, and one request to the API."""
    changes = [*place.model_of(values), "max_new_tokens=8"]
    _command(["chat", name, *changes], place, typed="hello\n/exit\n")
    with _served(["api", name, *changes], place) as address:
        body = {"model": "gpt-3.5-turbo", "messages": [{"role": "user", "content": "hi"}]}
        body |= {"max_tokens": 8}
        request = urllib.request.Request(
            f"{address}/v1/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            json.load(answer)["choices"][0]["message"]["content"]
    return Ran(name, "chat, api", "runs")


def _command(words: list[str], place: Place, typed: str | None = None) -> None:
    program = [sys.executable, "-m", "llama_factory", *words]
    done = subprocess.run(
        program, cwd=place.examples, input=typed, capture_output=True, text=True, timeout=SECONDS
    )
    if done.returncode:
        raise OSError(done.stderr.strip() or done.stdout.strip())


@contextlib.contextmanager
def _served(words: list[str], place: Place) -> Iterator[str]:
    """The address of an API, which ends with this."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "API_PORT": str(port)}
    program = [sys.executable, "-m", "llama_factory", *words]
    server = subprocess.Popen(
        program,
        cwd=place.examples,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_for(f"{address}/health", server)
        yield address
    finally:
        server.terminate()
        server.communicate(timeout=SECONDS)


def _wait_for(address: str, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            assert server.stdout is not None, "it was asked for"
            raise OSError(server.stdout.read().decode().strip())
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):
            return
        time.sleep(0.5)
    raise OSError(f"{address} did not answer in {SECONDS} s")


def _slug(name: str) -> str:
    return name.replace("/", "__").removesuffix(".yaml")


def _lines(message: str, place: Place) -> Iterator[str]:
    """A message without this machine's folders."""
    for folder in (place.examples, place.data, place.work):
        message = message.replace(f"{folder}/", "").replace(str(folder), "")
    yield from message.splitlines()


if __name__ == "__main__":
    main()
