"""A host workflow with evaluation and training as nodes, for the LangGraph server."""

from orcheo_agentensor import Settings
from orcheo_agentensor.demo.host import create_host_workflow
from orcheo_agentensor.server.warm_up import warm_up

warm_up()
graph = create_host_workflow(settings=Settings()).compile(name="host_workflow")
