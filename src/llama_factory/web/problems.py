"""What an address is told that leads nowhere, as kinds of sentences."""

from llama_factory.core.sentences import kind_of_sentence as kind

NO_VERSION = kind("problem.page_version", "there is no version '{name}'")
NO_EVENT = kind("problem.page_event", "there is no event '{name}'")
NO_WORKSPACE = kind("problem.page_workspace", "there is no workspace '{name}' here")
NO_FILE = kind("problem.page_file", "there is no such file")
MANY_STREAMS = kind(
    "problem.page_streams", "too many pages are followed; this one asks now and then instead"
)
OF_FRAMEWORK = (
    kind("problem.page_missing", "Not Found"),
    kind("problem.page_method", "Method Not Allowed"),
)
