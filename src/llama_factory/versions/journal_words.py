"""What a person wants to know of an event of the journal, in a line."""

from llama_factory.core.sentences import Sentence, kind_of_sentence, listed
from llama_factory.data.sources.inbox import shown
from llama_factory.versions.journal import Event

BEGUN_ON = kind_of_sentence("journal.begun_on", "on {files} files, {rows} rows: {why}")


def about(event: Event) -> str:
    """The line; empty where kind and version say all."""
    data = event.data
    if event.what == "file seen":
        return shown(data["file"])
    if event.what == "round begun":
        return BEGUN_ON(files=len(data["files"]), rows=data["rows"], why=listed(data["why"]))
    if event.what == "gc":
        return f"{', '.join(data['versions'])}, {data['bytes'] / 1e6:.1f} MB"
    text = data.get("text") or data.get("why") or data.get("summary") or data.get("error", "")
    if isinstance(text, Sentence):
        return text
    return shown(str(text).splitlines()[-1]) if text else ""
