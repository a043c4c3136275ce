"""`agentensor view`: the stored runs as pages on this machine."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from typing import Annotated

import typer

from orcheo_agentensor.cli import options
from orcheo_agentensor.cli.output import show
from orcheo_agentensor.errors import BadInput, require_extra
from orcheo_agentensor.logs import logs_json

HOST = "127.0.0.1"


def view(
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="N", help="The port; 0 takes a free one.")
    ] = 8765,
    store: options.StoreUrl = None,
) -> None:
    """Serve runs, cases, comparisons and lineages as pages, to this machine alone.

    They follow a run while it works. Ctrl-C ends it.
    """
    require_extra("view", "fastapi", "uvicorn", "jinja2")
    import uvicorn

    from orcheo_agentensor.server.local import create_view

    opened = options.named_store(store)
    key = secrets.token_urlsafe(18)

    async def serve() -> None:
        try:
            await options.require_store(opened)
            listening = _listen(port)
            at = listening.getsockname()[1]
            app = create_view(opened, port=at, key=key)
            show(f"http://{HOST}:{at}/#key={key}")
            config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off")
            if logs_json():  # to the root's handler, like all else
                for name in ("uvicorn", "uvicorn.access"):
                    logging.getLogger(name).handlers.clear()
                logging.getLogger("uvicorn").propagate = True
            await uvicorn.Server(config).serve([listening])
        finally:
            await opened.close()

    asyncio.run(serve())


def _listen(port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((HOST, port))
    except OSError as error:
        made.close()
        raise BadInput(
            f"--port {port}: cannot be used ({error.strerror}); --port 0 takes a free one",
            field="--port",
            value=port,
        ) from None
    return made
