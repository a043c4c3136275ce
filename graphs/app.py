"""Our routes and the check of run requests, for the LangGraph server."""

from orcheo_agentensor.server.app import create_app
from orcheo_agentensor.server.startup import warm_up

warm_up()
app = create_app()
