"""Too many answers that users disliked."""

from pydantic import Field

from llama_factory.rounds.triggers import TRIGGERS, Finding, Situation, Trigger


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
            return Finding(False, f"{len(situation.ratings)} of {self.over} ratings")
        newest = situation.ratings[-self.over :]
        fraction = sum(newest) / self.over
        text = (
            f"{100 * fraction:.0f} % of {self.over} ratings are thumbs down, "
            f"limit {100 * self.thumbs_down_above:g} %"
        )
        return Finding(fraction > self.thumbs_down_above, text)
