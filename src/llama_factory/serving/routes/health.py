"""`GET /health`: who answers, for load balancers and people; needs no key."""

from typing import Any

from fastapi import APIRouter

from llama_factory.serving.service import Gateway


def router(gateway: Gateway) -> APIRouter:
    """The route."""
    routes = APIRouter()

    @routes.get("/health")
    async def health() -> dict[str, Any]:
        return gateway.health()

    return routes
