"""What is wrong with a setting, as kinds of sentences; Pydantic's are known by their words."""

from llama_factory.core.sentences import kind_of_sentence as kind

ROOM = "settings."
"""Begin of the names of these kinds."""

SEEN = kind("settings.seen", "{why}; it is {value}.")
NO_SETTING = kind("settings.no_setting", "no such setting.{hint}")
NO_KEY = kind("settings.no_key", "no such key.{hint}")
NO_SECTION = kind("settings.no_section", "no such section")
NO_ROWS = kind("settings.no_rows", "Choose the rows to train on.")
OF_PYDANTIC = tuple(kind(f"settings.{name}", text) for name, text in (
    ("required", "Field required"),
    ("text", "must be a valid string"),
    ("whole", "must be a valid integer"),
    ("whole_from_text", "must be a valid integer, unable to parse string as an integer"),
    ("whole_from_number", "must be a valid integer, got a number with a fractional part"),
    ("number", "must be a valid number"),
    ("number_from_text", "must be a valid number, unable to parse string as a number"),
    ("finite", "must be a finite number"),
    ("yes_or_no", "must be a valid boolean"),
    ("yes_or_no_from_text", "must be a valid boolean, unable to interpret input"),
    ("list", "must be a valid list"),
    ("section", "must be a section with settings"),
    ("above", "must be greater than {limit}; it is {value}."),
    ("from", "must be greater than or equal to {limit}; it is {value}."),
    ("below", "must be less than {limit}; it is {value}."),
    ("up_to", "must be less than or equal to {limit}; it is {value}."),
    ("one_of", "must be '{choices}'"),
    ("a_number", "must be a number"),
    ("a_text", "must be text"),
))  # fmt: skip
"""What Pydantic says of a value, in our words."""
