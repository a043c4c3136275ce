"""Where the LangGraph server keeps its threads: beside the side store."""

from orcheo_agentensor.server.startup import checkpointer as create

__all__ = ["create"]
