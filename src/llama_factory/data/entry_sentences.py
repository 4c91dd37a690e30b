"""What is wrong with an entry of dataset_info.json, as kinds; see `row_sentences.py`."""

from llama_factory.core.sentences import kind_of_sentence as kind

ROOM = "entry."
"""Begin of the names of these kinds."""

NO_OBJECT = kind("entry.no_object", "must be an object.")
NO_ENTRIES = kind("entry.no_entries", "must be one object, with an entry for each name.")
UNKNOWN = kind("entry.unknown", "'{name}' is unknown.{hint} Known: {known}.")
UNKNOWN_FORMATTING = kind(
    "entry.unknown_formatting", "formatting '{name}' is unknown.{hint} Known: {known}."
)
OF_PART = kind("entry.of_part", "{part}: {why}")
PART_NO_OBJECT = kind("entry.part_no_object", "{part} must be an object.")
NO_TEXT = kind("entry.no_text", "'{name}' must be text.")
VALUE_NO_TEXT = kind("entry.value_no_text", "{field} must be text, not {value}.")
NO_COUNT = kind("entry.no_count", "{field} must be a whole number of at least 1, not {value}.")
NO_SWITCH = kind("entry.no_switch", "ranking must be true or false, not {value}.")
NO_FILE = kind("entry.no_file", "it has no file_name, hf_hub_url or ms_hub_url{where}.")
OUTSIDE = kind(
    "entry.outside", "file_name '{name}' lies outside the folder '{folder}'. Copy the file there."
)
MISSING = kind("entry.missing", "file_name '{name}' is missing from '{folder}'.{hint}")
PROGRAM = kind(
    "entry.program",
    "script_url names a program that would run on this machine to make the rows; such programs are "
    "never run. Convert its rows to JSON lines and give file_name.",
)
