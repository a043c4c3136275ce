"""The graph for the server: each run starts from the version in production."""

from support import graph

from orcheo_agentensor import Settings, configure

app = configure(
    graph,
    workflow_id="support",
    defaults={"configurable": {"agentensor": {"use": "production"}}},
    store=Settings().database_url,
)
