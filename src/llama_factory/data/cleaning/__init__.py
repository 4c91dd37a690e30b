"""Cleaning, one step a file: what a row loses, or why it is dropped. Ordered in the settings."""

from collections.abc import Sequence
from dataclasses import dataclass

from llama_factory.core.settings import Registry, Settings, import_parts
from llama_factory.core.types import Example
from llama_factory.data.selection import Findings, History, Selection
from llama_factory.data.store import RowTable


@dataclass(frozen=True)
class Dropped:
    """Why a row is left out, in a few words that many rows can share: the report counts them."""

    reason: str


class Step(Settings):
    """One step of cleaning: a `RowStep` or a `SetStep`."""


class RowStep(Step):
    """A step that looks at one row at a time; pure, so that it runs in any process."""

    def clean(self, row: Example) -> Example | Dropped:
        """The row itself where nothing is to change, a changed copy, or why it is dropped."""
        raise NotImplementedError


class SetStep(Step):
    """A step that compares rows: with each other, and with what was taught and tested before.

    Set steps come after all row steps; by then rows are split into taught and tested ones.
    """

    def find_corrections(self, table: RowTable, history: History) -> Sequence[int]:
        """Numbers of rows that answer a question held out before anew: they are taught.

        Asked before rows known from earlier rounds are dropped; none by default.
        """
        return ()

    def compare(self, rows: Selection, history: History) -> Findings:
        """What to take out of the rows, each with a reason, and what else was noticed."""
        raise NotImplementedError


CLEANERS: Registry[Step] = Registry("cleaning step")
import_parts(__name__, __path__)
