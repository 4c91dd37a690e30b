"""Why a row cannot be taught, as kinds of sentences.

Files keep them as texts, so the page knows them again by their words. `what`, `items` and `why`
stand for texts that have kinds of their own.
"""

from llama_factory.core.sentences import kind_of_sentence as kind

ROOM = "row."
"""Begin of the names of these kinds."""

OBJECT, LIST, TEXT = (kind(f"row.{n}", text) for n, text in (
    ("object", "an object"), ("list", "a list"), ("text", "text"),
))  # fmt: skip
FLAG, NULL, NUMBER, BYTES = (kind(f"row.{n}", text) for n, text in (
    ("flag", "true/false"), ("null", "null"), ("number", "a number"), ("bytes", "bytes"),
))  # fmt: skip
TURNS = kind("row.turns", "at least one user and one assistant message")
TURNS_LIKE_QUESTION = kind("row.turns_like_question", "turns, as the question is")
TURNS_AND_PROMPT = kind(
    "row.turns_and_prompt", "turns; give the question in 'prompt' where it is text"
)
PATHS = kind("row.paths", "paths")
PAIRS = kind("row.pairs", "[question, answer] pairs of text")

IN_FIELD = kind("row.in_field", "'{name}': {why}")
IN_MESSAGE = kind("row.in_message", "message {number}: {why}")
MESSAGE_MUST = kind("row.message_must", "message {number} {why}")
NO_VALUE = kind("row.no_value", "'{name}' has no value (it is null or NaN).")
FIELD_MISSING = kind("row.field_missing", "'{name}' is missing; the row has {fields}.")
TURN_FIELD_MISSING = kind("row.turn_field_missing", "'{name}' is missing; the turn has {fields}.")
NOT_TEXT = kind("row.not_text", "'{name}' must be text, this is {what}.")
EMPTY = kind("row.empty", "'{name}' is empty.")
HALF_CHARACTER = kind(
    "row.half_character",
    "'{name}' holds half of a character ({half} at position {position}); an emoji was cut in two. "
    "Remove it.",
)
NOT_LIST = kind("row.not_list", "'{name}' must be a list of {items}, this is {what}.")
EMPTY_LIST = kind("row.empty_list", "'{name}' must be a list of {items}.")
NOT_FLAG = kind(
    "row.not_flag",
    "'{name}' must be true or false (or 1 or 0), this is {what} ({value}). Rename the field if it "
    "is no verdict on the answer.",
)
NOT_TOOLS = kind(
    "row.not_tools",
    "'{name}' must be a JSON list of tools, each an object with its name and parameters.",
)
NOT_OBJECT = kind("row.not_object", "a row must be a JSON object, this is {what}.")
ONE_TURN = kind(
    "row.one_turn",
    "this is one turn of a conversation, not a row. Put the turns of each conversation into one "
    'row, as in {{"messages": [{{"role": "user", ...}}, {{"role": "assistant", ...}}]}}.',
)
UNKNOWN_LAYOUT = kind(
    "row.unknown_layout", "fields {fields} are no known layout; expected {wanted}.{hint}"
)
NOT_TURN = kind("row.not_turn", "must be an object with {role} and {content}, this is {what}.")
UNKNOWN_ROLE = kind("row.unknown_role", "role '{role}' is unknown.{hint} Known: {known}.")
NOT_ASSISTANT = kind(
    "row.not_assistant", "'{name}' must be an answer of the assistant, it is from '{role}'."
)
OTHER_QUESTION = kind(
    "row.other_question",
    "'chosen' and 'rejected' must be the same up to the last answer; message {number} differs.",
)
SAME_ANSWERS = kind(
    "row.same_answers", "'chosen' and 'rejected' are the same: nothing can be learnt from them."
)
NO_SOUND = kind("row.no_sound", "'{name}': only text and pictures can be taught yet.")
NOT_PATHS = kind("row.not_paths", "'{name}' must be a list of paths of pictures, not of {what}.")
PICTURE_ADDRESS = kind(
    "row.picture_address", "the picture '{path}' is an address; save it and give its path."
)
PICTURE_MARKS = kind(
    "row.picture_marks",
    "the row has {pictures} pictures and {marks} {mark} marks that stand for them. Write one mark "
    "where each picture belongs.",
)
PICTURE_OUTSIDE = kind(
    "row.picture_outside", "the picture '{path}' lies outside the folder '{folder}'. Move it in."
)
PICTURE_MISSING = kind(
    "row.picture_missing", "the picture '{path}' is missing; there is no '{file}'."
)
NOT_GROUP = kind(
    "row.not_group", "'{name}' must be text or a whole number. Rename it if it is no task."
)
NOT_WEIGHT = kind(
    "row.not_weight",
    "'{name}' must be a number above 0. Rename the field if it is not the row's share in the loss.",
)
NOT_PAIR = kind(
    "row.not_pair",
    "'{name}' must be a list of [question, answer] pairs of text; pair {number} is not.",
)
NOT_LINE = kind("row.not_line", "'line' must be a whole number.")
TWO_THOUGHTS = kind("row.two_thoughts", "{names} are different thoughts. Keep one.")
OTHER_THOUGHT = kind(
    "row.other_thought", "'{name}' and the content are different thoughts. Keep one."
)
PART_KIND = kind(
    "row.part_kind",
    "a part of type '{kind}' cannot be taught; use 'text', or 'image' with the paths in 'images'.",
)
NOT_LOSS = kind("row.not_loss", "'loss' must be true or false, this is {what}.")
NOT_TURN_WEIGHT = kind("row.not_turn_weight", "'weight' must be a number of at least 0.")
NOT_CALLS = kind("row.not_calls", "'tool_calls' must be a list, this is {what}.")
NOT_FUNCTION_CALL = kind(
    "row.not_function_call",
    "a function call must be JSON with name and arguments, this is {value}.",
)
CALL_WITHOUT_NAME = kind("row.call_without_name", "a tool call must have a name, this is {value}.")
NOT_ARGUMENTS = kind(
    "row.not_arguments", "the arguments of '{name}' must be a JSON object, not {value}."
)
NO_LAST_ANSWER = kind(
    "row.no_last_answer", "the last message must be the assistant's answer, it is missing."
)
NO_LAST_QUESTION = kind(
    "row.no_last_question", "the messages must end with the question that 'chosen' answers."
)
SYSTEM_LATE = kind(
    "row.system_late", "message {number} is from '{speaker}'; only the first may be."
)
OUT_OF_TURN = kind(
    "row.out_of_turn", "message {number} is from '{speaker}' where {wanted} must speak."
)
