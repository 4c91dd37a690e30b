"""`POST /v1/load_lora_adapter` and `/v1/unload_lora_adapter`: vLLM's calls, for versions alone.

No path of a request is opened: a version is named by its id.
"""

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse

from llama_factory.inference.question import RequestError
from llama_factory.serving.errors import UnknownModelError
from llama_factory.serving.protocol.fields import (
    ModelName,
    RequestPart,
    WholeCharacters,
    require_known,
)
from llama_factory.serving.service import Gateway
from llama_factory.versions import store


class AdapterRequest(WholeCharacters, RequestPart):
    """Body of both calls."""

    lora_name: ModelName
    lora_path: str | None = None
    load_inplace: bool | None = None

    def version_id(self, gateway: Gateway) -> str:
        """The version that is meant.

        Raises:
            UnknownModelError: the workspace has none of this id.
            RequestError: the path is not that version's, or a field is not supported.
        """
        require_known(self.model_extra or {}, type(self).model_fields)
        versions = gateway.workspace.versions
        if self.lora_name not in store.ids(gateway.workspace):
            error = UnknownModelError(f"lora_name: there is no version '{self.lora_name}' here.")
            error.place = "lora_name"
            raise error
        own = versions / self.lora_name / "adapter"
        if self.lora_path is not None and Path(self.lora_path) != own:
            raise RequestError(
                "lora_path: must be the adapter folder of that version. Leave it out.",
                param="lora_path",
            )
        if self.load_inplace:
            raise RequestError("load_inplace: a version never changes.", param="load_inplace")
        return self.lora_name


def router(gateway: Gateway) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/v1")

    @routes.post("/load_lora_adapter")
    async def load_lora_adapter(body: AdapterRequest) -> PlainTextResponse:
        version_id = body.version_id(gateway)
        gateway.require_engine()
        await gateway.versions.pin(version_id)
        return PlainTextResponse(f"Success: {version_id} is loaded.")

    @routes.post("/unload_lora_adapter")
    async def unload_lora_adapter(body: AdapterRequest) -> PlainTextResponse:
        version_id = body.version_id(gateway)
        if not await gateway.versions.release(version_id):
            raise RequestError(
                f"lora_name: {version_id} has an alias or is answering, so it stays loaded.",
                param="lora_name",
            )
        return PlainTextResponse(f"Success: {version_id} is not loaded.")

    return routes
