"""Why a file, or a line of it, cannot be read, as kinds of sentences; see `row_sentences.py`."""

from llama_factory.core.sentences import kind_of_sentence as kind

ROOM = "file."
"""Begin of the names of these kinds."""

AT = kind("file.at", "{place}: {why}")
HINT = kind("file.hint", " Did you mean '{name}'?")

BROKEN_LINE = kind("file.broken_line", "this line is not valid JSON ({why}).")
BROKEN_ROW = kind("file.broken_row", "this row is not valid JSON ({why}).")
HALF_WRITTEN = kind("file.half_written", "{why} The file may be half-written.")
AT_COLUMN = kind("file.at_column", "{why}, column {column}")
AT_CHARACTER = kind("file.at_character", "{why}, character {character} of the row")
OF_JSON = tuple(kind(f"file.json_{n}", text) for n, text in (
    ("value", "Expecting value"),
    ("comma", "Expecting ',' delimiter"),
    ("colon", "Expecting ':' delimiter"),
    ("name", "Expecting property name enclosed in double quotes"),
    ("comma_at_end", "Illegal trailing comma before end of object"),
    ("control", "Invalid control character at"),
    ("unterminated", "Unterminated string starting at"),
    ("escape", "Invalid \\escape"),
    ("unicode", "Invalid \\uXXXX escape"),
    ("extra", "Extra data"),
))  # fmt: skip
"""What Python's reader of JSON says."""
LIST_IN_LIST = kind("file.list_in_list", "a list of turns in a list of turns: is a ']' missing?")
OVERSIZED = kind(
    "file.oversized",
    "this row has {size} bytes; the longest row read has {most}. Are its line breaks missing?",
)
WRONG_BYTE = kind(
    "file.wrong_byte",
    "not {encoding}: byte {byte} at column {column} (in {likely} it would read '{text}'). Save the "
    "file as UTF-8, or set `data.encoding: {name}`.",
)
NUL_AT = kind("file.nul_at", "a NUL character at column {column}: is this a text file?")
NUL = kind("file.nul", "a NUL character: remove it.")
QUOTES = kind(
    "file.quotes",
    "its quotes do not match ({error}). Close every quote, and write one inside a field twice.",
)
NUM_FIELDS = kind(
    "file.num_fields",
    "{fields} fields where the header has {columns} ({names}). Put quotes around fields with "
    "separators in them.",
)
HEADER_UNREADABLE = kind("file.header_unreadable", "its header cannot be read: {why}")
NO_HEADER = kind("file.no_header", "is empty: it has no header and no rows.")
HEADER_NAMELESS = kind(
    "file.header_nameless",
    "its header names no column. The first line must name the columns.",
)
HEADER_TWICE = kind(
    "file.header_twice", "two columns of its header are called '{name}'. Rename one."
)
COLUMN_TWICE = kind("file.column_twice", "has two columns called '{name}'. Rename one.")
NO_ROWS = kind("file.no_rows", "is empty: it holds no rows.")
NOTHING_SAVED = kind("file.nothing_saved", "is empty: it holds no rows. Was it saved completely?")
IS_FOLDER = kind("file.is_folder", "is a folder where a file is wanted.")
IS_DEVICE = kind("file.is_device", "is a pipe or device where a file is wanted.")
NOT_READABLE = kind("file.not_readable", "cannot be read ({error}). Check its permissions.")
PACKED_DAMAGED = kind(
    "file.packed_damaged",
    "the {packing} data is damaged or cut off ({error}); what follows is lost. Copy the file "
    "again.",
)
NOT_ENCODED = kind(
    "file.not_encoded", "is not {encoding} ({error}). Save it as UTF-8 or set `data.encoding`."
)
FILE_FROM_HERE = kind("file.file_from_here", "from here on the file {why}")
FROM_HERE = kind("file.from_here", "from here on {why}")
UNMARKED = kind(
    "file.unmarked", "looks like UTF-16 without its mark; set `data.encoding: {encoding}`."
)
NO_SUCH_KIND = kind(
    "file.no_such_kind",
    "is no {kind} file although it is called one. Was it copied completely?",
)
UNKNOWN_KIND = kind(
    "file.unknown_kind", "files of kind '{kind}' cannot be read yet.{hint} Known kinds: {known}."
)
NOT_WHOLE = kind("file.not_whole", "is no whole {kind} file ({error}). Copy it again.")
ZIP = kind("file.zip", "is a zip archive or a spreadsheet; unpack it, or save the sheet as CSV.")
PDF = kind("file.pdf", "is a PDF; extract its text to .txt, one sample a line.")
BZIP2 = kind(
    "file.bzip2",
    "is compressed with bzip2; unpack it, or compress it with gzip or zstd.",
)
XZ = kind("file.xz", "is compressed with xz; unpack it, or compress it with gzip or zstd.")
DATABASE = kind("file.database", "is a database; export its table as CSV or JSON lines.")
PICKLE = kind(
    "file.pickle",
    "is saved Python objects, which may run any code; export them as JSON lines.",
)
NAME_ENCODING = kind("file.name_encoding", "its name is no UTF-8; rename it.")
LINK_OUTSIDE = kind("file.link_outside", "a link that leaves the inbox is not followed.")
LINK_CIRCLE = kind("file.link_circle", "a link that leads in a circle.")
FOLDER_IN_INBOX = kind("file.folder_in_inbox", "folders are not read; move its files up.")
GROWING = kind("file.growing", "still growing; it is taken by the next round.")
CHANGING = kind("file.changing", "changing; it is taken by the next round.")
