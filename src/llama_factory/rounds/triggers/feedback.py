"""Too many answers that users disliked."""

from pydantic import Field

from llama_factory.core.sentences import kind_of_sentence as kind
from llama_factory.rounds.triggers import TRIGGERS, Finding, Situation, Trigger

FEW_RATINGS = kind("loop.few_ratings", "{count} of {wanted} ratings")
DISLIKED = kind("loop.disliked", "{percent} % of {count} ratings are thumbs down, limit {limit} %")


@TRIGGERS.register("feedback")
class ThumbsDown(Trigger):
    """Begins a round when users dislike too many answers, if a row waits that may help."""

    thumbs_down_above: float = Field(0.1, ge=0, lt=1)
    """Fraction of ratings since the last round. Lower learns after fewer complaints."""
    over: int = Field(200, ge=1)
    """So many ratings are looked at, the newest; with fewer nothing is concluded."""

    def look(self, situation: Situation) -> Finding:
        """See `Trigger`."""
        if len(situation.ratings) < self.over:
            return Finding(False, FEW_RATINGS(count=len(situation.ratings), wanted=self.over))
        newest = situation.ratings[-self.over :]
        fraction = sum(newest) / self.over
        limit = f"{100 * self.thumbs_down_above:g}"
        text = DISLIKED(percent=f"{100 * fraction:.0f}", count=self.over, limit=limit)
        return Finding(fraction > self.thumbs_down_above, text)
