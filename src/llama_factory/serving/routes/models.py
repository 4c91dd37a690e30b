"""`GET /v1/models`: every name that a request may use."""

from typing import Any

from fastapi import APIRouter

from llama_factory.serving.service import Gateway


def router(gateway: Gateway) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/v1")

    @routes.get("/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": gateway.models()}

    @routes.get("/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        return gateway.model(name)

    return routes
