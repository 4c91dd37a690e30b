"""What the gate says, as kinds of sentences. What it asks is in `questions.py`."""

from llama_factory.core.sentences import kind_of_sentence as kind
from llama_factory.data.selection import FEWEST_ROWS_TO_SPLIT

ALL_PASSED = kind("gate.all_passed", "all checks passed")
NEW_TASK = kind("gate.new_task", "{task} (new): perplexity {before} -> {after}")
AND_METRIC = kind("gate.and_metric", "{text}, {change}")
NOT_IMPROVED = kind("gate.not_improved", "{text}, not improved")
CHANGE = kind("gate.change", "{metric} {before} -> {after}")
CHANGE_BETWEEN = kind(
    "gate.change_between", "{text} ({percent} of the change: {between}, {rows} rows)"
)
OLD_WITHIN = kind("gate.old_within", "{task} (old): {change}, within the allowed drop of {limit}")
OLD_BEYOND = kind(
    "gate.old_beyond", "{task} (old): {change}, more than the allowed drop of {limit}"
)
OLD_RATIO_WITHIN = kind(
    "gate.old_ratio_within", "{task} (old): perplexity x {ratio}, within the limit of x {limit}"
)
OLD_RATIO_BEYOND = kind(
    "gate.old_ratio_beyond", "{task} (old): perplexity x {ratio}, above the limit of x {limit}"
)
TOGETHER_WITHIN = kind(
    "gate.together_within",
    "all {count} old tasks together: {change}, within the allowed drop of {limit}",
)
TOGETHER_BEYOND = kind(
    "gate.together_beyond",
    "all {count} old tasks together: {change}, more than the allowed drop of {limit}",
)
ONE_OF_MANY = kind("gate.one_of_many", "{text}; one of {count} old tasks, Holm's correction")
GENERAL_WITHIN = kind(
    "gate.general_within", "general perplexity x {ratio}, within the limit of x {limit}"
)
GENERAL_BEYOND = kind(
    "gate.general_beyond", "general perplexity x {ratio}, above the limit of x {limit}"
)
RATIO_BETWEEN = kind("gate.ratio_between", "{ratio} ({percent}: {between}, {rows} rows)")
TOO_FEW_ROWS = kind("gate.too_few_rows", "{text}; {why}")
CANNOT_TELL = kind(
    "gate.cannot_tell", "cannot tell for certain with {rows}: would need about {needed}"
)
CANNOT_EVER = kind(
    "gate.cannot_ever", "cannot tell for certain with {rows}, and no number of rows is sure to"
)
ONE_ROW = kind("gate.one_row", "1 row")
ROWS = kind("gate.rows", "{count} rows")
NOTHING_HELD_OUT = kind(
    "gate.nothing_held_out",
    "no row of this round was held out (a group gives up rows to test from {fewest} rows on), so "
    "nothing shows what it learned. Look at it and promote it by hand; or add rows, or questions "
    "with their answers in NAME.test.jsonl, and learn again",
)(fewest=FEWEST_ROWS_TO_SPLIT)
COMPLAINTS_ENOUGH = kind(
    "gate.complaints_enough",
    "{right} of {count} complaints are answered rightly now ({before} before), at least {wanted} "
    "(taught rows)",
)
COMPLAINTS_TOO_FEW = kind(
    "gate.complaints_too_few",
    "{right} of {count} complaints are answered rightly now ({before} before), fewer than {wanted} "
    "(taught rows)",
)
ONE_COMPLAINT_ENOUGH = kind(
    "gate.one_complaint_enough",
    "{right} of 1 complaint is answered rightly now ({before} before), at least {wanted} (taught "
    "rows)",
)
ONE_COMPLAINT_TOO_FEW = kind(
    "gate.one_complaint_too_few",
    "{right} of 1 complaint is answered rightly now ({before} before), fewer than {wanted} (taught "
    "rows)",
)
REFUSED = kind("gate.refused", "refused: {why}")
HELD = kind("gate.held", "held: {why}")
PROMOTED = kind("gate.promoted", "promoted by the gate")
FOR_CANARY = kind("gate.for_canary", "canary: passed the gate")
