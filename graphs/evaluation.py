"""The evaluation graph, for the LangGraph server."""

from orcheo_agentensor import Settings, create_evaluation_graph
from orcheo_agentensor.server.startup import warm_up

warm_up()
settings = Settings()
graph = create_evaluation_graph(store=settings.database_url, settings=settings).compile(
    name="evaluation"
)
