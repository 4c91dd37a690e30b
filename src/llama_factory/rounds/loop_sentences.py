"""What the loop says of itself, as kinds of sentences; those of triggers are in `triggers/`."""

from llama_factory.core.sentences import kind_of_sentence as kind

NOTHING_WAITS = kind("loop.nothing_waits", "nothing waits to be taught")
CAME_TO_NOTHING = kind("loop.came_to_nothing", "what waits came to nothing in a round before")
NO_TRIGGERS = kind("loop.no_triggers", "loop.triggers is empty, so no round begins by itself")
BEGINS = kind("loop.begins", "a round begins: {why}")
GOES_ON = kind("loop.goes_on", "an interrupted round goes on")
QUIET = kind("loop.quiet", "not before {time} (quiet hours)")
COOLING_DOWN = kind("loop.cooling_down", "not before {time} (cool-down of {wait} after a round)")
TRIED = kind(
    "loop.tried",
    "not before {time} (the round failed {failures} of {tries} times, {wait} between tries)",
)
ENOUGH_ROUNDS = kind(
    "loop.enough_rounds", "{count} rounds in 24 hours are enough, not before {time}"
)
ONE_IS_GROWING = kind("loop.one_is_growing", "a file is waited for until it stands still")
STILL_GROWING = kind("loop.still_growing", "{count} files are waited for until they stand still")
NOBODY_WATCHES = kind("loop.nobody_watches", "nobody watches: llama-factory watch")
PAUSED = kind("loop.paused", "paused by {name} since {time}, until `llama-factory watch --resume`")
ANOTHER_PROCESS = kind("loop.another_process", "another process works here")
OWNED = kind("loop.owned", "process {pid} is already {what} (on {host}, since {started})")
RUNNING_A_ROUND = kind("loop.running_a_round", "running a round here")
CONSOLIDATING = kind("loop.consolidating", "consolidating here")
DECIDED = kind("loop.decided", "decided in {version}")
NO_NEW_ROW = kind("loop.no_new_row", "no new row")
RELEASED = kind("loop.released", "{version} is released")
TRIED_ON_A_FEW = kind("loop.tried_on_a_few", "{version} is tried on a few callers")
IS_HELD = kind("loop.is_held", "{version} is held: {problem}")
NOT_RELEASED = kind("loop.not_released", "{version} is not released")
NOTHING_NEW = kind("loop.nothing_new", "nothing new to learn")
PARKED = kind(
    "loop.parked",
    "a round on {count} files ({names}) failed {failures} times and is parked; they stay in the "
    "inbox. Mend what is wrong, then: llama-factory watch --unpark",
)
