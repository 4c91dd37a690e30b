"""What the monitor says, as kinds of sentences."""

from llama_factory.core.sentences import kind_of_sentence as kind

LANGUAGES = kind("monitor.languages", "languages: PSI")
LENGTHS = kind("monitor.lengths", "lengths: PSI")
LABELS = kind("monitor.labels", "labels: PSI")
UNSEEN = kind("monitor.unseen", "unseen words:")
ABOVE_CHANCE = kind(
    "monitor.above_chance",
    "{what} {value}, above the {limit} that chance explains with {rows} rows: {words}",
)
WITHIN_CHANCE = kind(
    "monitor.within_chance",
    "{what} {value}, within the {limit} that chance explains with {rows} rows: {words}",
)
MOVED = kind("monitor.moved", "{name} {now} (before: {before})")
AND = kind("monitor.and", "{one}, {other}")
NO_DIFFERENCE = kind("monitor.no_difference", "no difference")
UNSEEN_WORDS = kind("monitor.unseen_words", "{count} of {all} words were in no earlier row")
SUCH_AS = kind("monitor.such_as", "{text}, such as {examples}")
UNLIKELY = kind(
    "monitor.unlikely",
    "{rate} of {rows} new rows are less likely to the released version than 90 % of the {tested} "
    "it was tested on before (evidence e = {e}; {alarm} is an alert)",
)
LOST = kind(
    "monitor.lost",
    "{group}: {metric} {change} since it was learned (90 %: {between}, {rows} rows), more than "
    "the loss of {limit} that the gate allows",
)
KEPT = kind(
    "monitor.kept",
    "{group}: {metric} {change} since it was learned (90 %: {between}, {rows} rows), within "
    "the loss of {limit} that the gate allows",
)
RATED_DOWN = kind(
    "monitor.rated_down", "users rate {down} of {all} answers of {version} down ({rate})"
)
RATED_DOWN_BEFORE = kind(
    "monitor.rated_down_before",
    "{text}, {down} of {all} of the versions before ({rate}; evidence of more e = {e}, {alarm} is "
    "an alert)",
)
REFUSES = kind("monitor.refuses", "{version} refuses {refused} of {all} answers ({rate})")
REFUSED_BEFORE = kind("monitor.refused_before", "{text}, {refused} of {all} before (e = {e})")
ANSWER_LENGTHS = kind(
    "monitor.answer_lengths", "answers of {version} have {median} characters (median of {all})"
)
LENGTHS_BEFORE = kind(
    "monitor.lengths_before",
    "{text}, {median} before; {odd} are shorter or longer than 90 % of those before (e = {e})",
)
LITTLE_SPACE = kind(
    "monitor.little_space",
    "{free} GB of {total} GB are free, less than the {wanted} GB that rounds want",
)
ENOUGH_SPACE = kind(
    "monitor.enough_space",
    "{free} GB of {total} GB are free, and the {wanted} GB that rounds want are there",
)

SHIFTED = kind(
    "monitor.shifted",
    "The data shifted: {words}. Look at the newest rows before they are taught; if they are meant, "
    "a round teaches them.",
)
STATED = kind("monitor.stated", "{words}.")
KNOWLEDGE_LOST = kind(
    "monitor.knowledge_lost",
    "Knowledge was lost in {version}: {words}. `llama-factory rollback` goes back.",
)
AFTER_UPDATES = kind("monitor.after_updates", " after {steps} updates")
RATE_TOO_HIGH = kind(
    "monitor.rate_too_high",
    "The learning rate may be too high: general perplexity is x {ratio} of the base model's"
    "{after}, so the round moved more than what it taught. Lower training.learning_rate.",
)
NONE = kind("monitor.none", "none")
NO_REPLAY = kind(
    "monitor.no_replay",
    "Replay is missing: no earlier row was taught again (strategies: {names}). Set strategies to "
    "default or safe.",
)
UNHAPPY = kind("monitor.unhappy", "Users are unhappy since release {version}: {words}.")
NOT_WHAT_USERS_ASK = kind(
    "monitor.not_what_users_ask",
    "{text} The held-out rows show no loss, so they do not ask what users ask: look at "
    "`llama-factory feedback`, and accept corrections as rows.",
)
UNLIKE_BEFORE = kind("monitor.unlike_before", "Unlike what was taught before: {words}.")
LIKE_BEFORE = kind("monitor.like_before", "Rows like those taught before ({told}; no alert).")
