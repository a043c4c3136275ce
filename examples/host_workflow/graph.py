"""The host workflow, compiled for a LangGraph server; `langgraph.json` names `graph`."""

from host_workflow import create_host_workflow

from orcheo_agentensor import Settings
from orcheo_agentensor.server.startup import warm_up

warm_up()
graph = create_host_workflow(settings=Settings()).compile(name="host_workflow")
