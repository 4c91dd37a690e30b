"""`/ready`, `/metrics` and `/openapi.json`: for whoever runs the server and writes its clients."""

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from llama_factory.serving.access import DESCRIPTION_PATH
from llama_factory.serving.description import describe
from llama_factory.serving.metrics import CONTENT_TYPE
from llama_factory.serving.readiness import GatewayReadings
from llama_factory.serving.service import Gateway


def router(gateway: Gateway) -> APIRouter:
    """The routes."""
    routes = APIRouter()

    @routes.get("/ready")
    async def ready(request: Request) -> Response:
        """Whether answers can be given: for load balancers. Needs no key."""
        readings: GatewayReadings = request.app.state.readings
        reasons = readings.reasons_not_ready()
        body = {"ready": not reasons, "version": gateway.released.production, "reasons": reasons}
        return JSONResponse(body, 503 if reasons else 200)

    @routes.get("/metrics")
    async def metrics(request: Request) -> Response:
        """What the server measures, in Prometheus' text format."""
        readings: GatewayReadings = request.app.state.readings
        await readings.look()
        return Response(gateway.metrics.text(), media_type=CONTENT_TYPE)

    @routes.get(DESCRIPTION_PATH)
    async def openapi(request: Request) -> dict[str, Any]:
        """This description."""
        return describe(request.app)

    return routes
