"""The training graph, for the LangGraph server."""

from orcheo_agentensor import Settings, create_training_graph
from orcheo_agentensor.server.startup import warm_up

warm_up()
settings = Settings()
graph = create_training_graph(store=settings.database_url, settings=settings).compile(
    name="training"
)
