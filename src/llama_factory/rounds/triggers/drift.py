"""What users ask, or what files hold, has moved."""

from pydantic import Field

from llama_factory.core.sentences import kind_of_sentence as kind
from llama_factory.rounds.triggers import TRIGGERS, Finding, SeriesValue, Situation, Trigger

NO_DRIFT = kind("loop.no_drift", "no drift of {names} measured since the last round")
DRIFT = kind("loop.drift", "drift of {name} {value}, limit {limit}")
SERIES = "drift."
"""How the names of these series begin in `monitor.jsonl`."""


@TRIGGERS.register("drift")
class DriftAbove(Trigger):
    """Begins a round when something drifted since the last one, if a row waits that may help."""

    of: list[str] = ["loss", "language", "length", "labels"]
    """Series of `monitor.jsonl`, without `drift.` before their names."""
    above: float = Field(0.2, ge=0)
    """Above which one of them is drift. Lower learns earlier, also from chance."""

    def look(self, situation: Situation) -> Finding:
        """See `Trigger`. Only what was measured since the last round counts."""
        since = situation.last_end
        fresh = {
            name: reading
            for name in self.of
            if (reading := situation.readings.get(SERIES + name))
            and (since is None or reading.at > since)
        }
        if not fresh:
            return Finding(False, NO_DRIFT(names=", ".join(self.of)))
        return self._worst(fresh)

    def _worst(self, fresh: dict[str, SeriesValue]) -> Finding:
        name = max(fresh, key=lambda each: fresh[each].value)
        value = fresh[name].value
        text = DRIFT(name=name, value=f"{value:.2f}", limit=f"{self.above:g}")
        return Finding(value > self.above, text)
