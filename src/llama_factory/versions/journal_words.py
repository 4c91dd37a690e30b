"""What a person wants to know of an event of the journal, in a line."""

from llama_factory.data.sources.inbox import shown
from llama_factory.versions.journal import Event


def about(event: Event) -> str:
    """The line; empty where kind and version say all."""
    data = event.data
    if event.what == "file seen":
        return shown(data["file"])
    if event.what == "round begun":
        return f"on {len(data['files'])} files, {data['rows']} rows: {'; '.join(data['why'])}"
    if event.what == "gc":
        return f"{', '.join(data['versions'])}, {data['bytes'] / 1e6:.1f} MB"
    text = str(data.get("text") or data.get("why") or data.get("summary") or data.get("error", ""))
    return shown(text.splitlines()[-1]) if text else ""
