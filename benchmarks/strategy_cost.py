"""What protecting old knowledge costs: each method beside plain training, update by update.

The methods take turns after every update, in one process, so that the moods of a machine meet all
of them alike. Each has learned a first task (one update, enough for the strategies to remember
something) and is timed on the second: DBpedia, then Amazon reviews, whose rows are of like length.
What a method does after a round is counted as part of a round of `--round` updates.

    strategy_cost.py PATH/TO/cl_benchmark [--methods default ewc replay] [--steps 16] [--out FILE]
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import common
import continual_methods as methods
from continual_data import Place, load_tasks, options_for
from continual_tiers import STREAMS, TIERS, Tier, cut_short
from pydantic import PrivateAttr

from llama_factory.core.progress import SILENT
from llama_factory.core.types import Example, Memory
from llama_factory.model.adapted import AdaptedModel, adapt
from llama_factory.model.base import load_tokenizer
from llama_factory.model.source import resolve
from llama_factory.rounds.settings import LearningConfig
from llama_factory.training.loop import Protection, TrainedModel, TrainingFolders, train
from llama_factory.training.strategy import STRATEGIES, RunState, Strategy

NUM_WARM = 2
"""First updates, which are not counted."""
TASKS = ("dbpedia", "amazon")


@dataclass
class Turns:
    """Whose turn it is, and how long each turn was.

    Attributes:
        order: names of those who take turns, without those who are done.
        seconds: of every turn, by name; the last one is what came after the last update.
    """

    order: list[str]
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _started: float = 0.0

    def begin(self, name: str) -> None:
        """Wait until it is this one's turn."""
        with self._changed:
            self._changed.wait_for(lambda: self.order[0] == name)
        self._started = time.perf_counter()

    def end(self, name: str) -> None:
        """Count the turn, and let the next one begin."""
        self.note(name)
        with self._changed:
            self.order.append(self.order.pop(0))
            self._changed.notify_all()

    def leave(self, name: str) -> None:
        """Take no more turns."""
        with self._changed:
            self.order.remove(name)
            self._changed.notify_all()

    def note(self, name: str) -> None:
        """Count the turn so far as one, and go on."""
        now = time.perf_counter()
        self.seconds[name].append(now - self._started)
        self._started = now


class InTurn(Strategy):
    """Protects nothing: lets the methods train one update each, in turns. It is listed last."""

    _turns: Turns = PrivateAttr()
    _name: str = PrivateAttr()
    _steps: int = PrivateAttr()

    @classmethod
    def of(cls, turns: Turns, name: str, steps: int) -> "InTurn":
        """For a method of this name, and so many updates."""
        made = cls()
        made._turns, made._name, made._steps = turns, name, steps
        return made

    def prepare(self, model: AdaptedModel, memory: Memory) -> RunState:
        """Wait for the first turn."""
        self._turns.begin(self._name)
        return RunState()

    def after_step(self, model: AdaptedModel, state: RunState) -> None:
        """Let the others go on; after the last update, first finish the round."""
        if len(self._turns.seconds[self._name]) + 1 < self._steps:
            self._turns.end(self._name)
            self._turns.begin(self._name)
        else:
            self._turns.note(self._name)

    def after_round(
        self,
        model: AdaptedModel,
        rows: Sequence[Example],
        memory: Memory,
        state: RunState,
        *,
        seed: int,
    ) -> Memory:
        """The other strategies have finished the round."""
        self._turns.note(self._name)
        return memory


@dataclass(frozen=True)
class Bench:
    """What the methods share.

    Attributes:
        rows: by task.
        tier: rows an update, and how they are cut.
        steps: updates that are timed.
        folder: for checkpoints and logs.
        model: name or folder of the base model.
        dtype: number format of the products.
    """

    rows: Mapping[str, Sequence[Example]]
    tier: Tier
    steps: int
    folder: Path
    model: str
    dtype: str

    def config(self, strategies: Sequence[Any], steps: int) -> LearningConfig:
        """The settings of a method."""
        shared = methods.training(self.tier, methods.LEARNING_RATE, 0)
        shared |= {"max_steps": steps, "try_longest_first": False, "checkpoint_steps": 1000}
        return methods.settings(
            strategies,
            shared,
            (),
            base_model=self.model,
            num_rounds=len(TASKS),
            dtype=self.dtype,
        )

    def teach(
        self, model: AdaptedModel, config: LearningConfig, name: str, task: str, **protection: Any
    ) -> TrainedModel:
        """One round."""
        folder = self.folder / name / task
        return train(
            model,
            self.rows[task],
            config.training,
            Protection(**protection),
            folders=TrainingFolders(
                folder / "checkpoints", folder / "log", folder / "runs", folder / "tokens"
            ),
            progress=SILENT,
        )


def main() -> None:
    """Time the methods and print the table."""
    options = parser().parse_args()
    presets = methods.presets(options.preset)
    stream = cut_short(STREAMS["labels"], len(TASKS))
    tier = TIERS[options.tier]
    place = Place(tier, load_tokenizer(resolve(options.model)), "tuning")
    tasks = load_tasks(stream, options.data, place)
    STRATEGIES.parts.setdefault("in_turn", InTurn)
    with tempfile.TemporaryDirectory() as folder:
        rows = {name: task.train for name, task in tasks.items()}
        bench = Bench(rows, tier, options.steps, Path(folder), options.model, options.dtype)
        names = [methods.NAIVE, *options.methods]
        turns, tokens = timed(bench, {name: presets[name] for name in names})
    report(turns, tokens, options)


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("data", type=Path, help="folder of the continual benchmark's data")
    made.add_argument("--methods", nargs="+", default=["default", "ewc", "replay"])
    made.add_argument("--preset", action="append", default=[], metavar="NAME=[STRATEGIES]")
    made.add_argument("--tier", choices=TIERS, default="standard")
    made.add_argument("--steps", type=int, default=16, help="updates of each method")
    made.add_argument("--round", type=int, default=32, help="updates of the round that is told of")
    made.add_argument("--model", default="smollm2")
    made.add_argument("--dtype", default="float32", help="number format, as model.dtype has it")
    made.add_argument("--out", type=Path, help="also write the figures here, as JSON")
    return made


def timed(
    bench: Bench, presets: Mapping[str, Sequence[Any]]
) -> tuple[Mapping[str, Sequence[float]], Mapping[str, int]]:
    """Seconds of every turn and tokens of the second round, by method."""
    turns = Turns(list(presets))

    def second_round(name: str, model: AdaptedModel, memory: Memory) -> int:
        config = bench.config(presets[name], bench.steps)
        waiting = InTurn.of(turns, name, bench.steps)
        strategies = (*config.strategies, waiting)
        try:
            found = bench.teach(model, config, name, TASKS[1], strategies=strategies, memory=memory)
        finally:
            turns.leave(name)
        return found.num_tokens

    begun = {name: first_round(bench, name, presets[name]) for name in presets}
    with ThreadPoolExecutor(len(begun)) as pool:
        waiting = {name: pool.submit(second_round, name, *begun[name]) for name in begun}
        tokens = {name: each.result() for name, each in waiting.items()}
    return turns.seconds, tokens


def first_round(bench: Bench, name: str, strategies: Sequence[Any]) -> tuple[AdaptedModel, Memory]:
    """A model that learned the first task for one update, and what its strategies remember."""
    config = bench.config(strategies, 1)
    model = adapt(config.model, None, options=options_for(bench.tier), seed=0)
    found = bench.teach(model, config, name, TASKS[0], strategies=tuple(config.strategies))
    return found.model, found.memory


def report(
    turns: Mapping[str, Sequence[float]], tokens: Mapping[str, int], options: argparse.Namespace
) -> None:
    """The table, and the figures as JSON."""
    plain = sum(turns[methods.NAIVE][NUM_WARM:-1])
    each = plain / (options.steps - NUM_WARM)
    lines = []
    for name, seconds in turns.items():
        ratio = sum(seconds[NUM_WARM:-1]) / plain
        after = seconds[-1] / each
        whole = ratio + (after - turns[methods.NAIVE][-1] / each) / options.round
        lines.append(
            {
                "method": name,
                "update": ratio,
                "tokens": tokens[name] / tokens[methods.NAIVE],
                "after_round": after,
                "round": whole,
            }
        )
    title = f"Time beside plain training = 1 ({options.steps - NUM_WARM} updates of each, in turns)"
    columns = ("method", "an update", "its tokens", "after the round, in updates",
               f"a round of {options.round}")  # fmt: skip
    common.print_table(title, columns, [list(line.values()) for line in lines])
    if options.out:
        found = {"machine": common.machine(), "methods": lines, "seconds": dict(turns)}
        options.out.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
