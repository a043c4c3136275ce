"""What a LangGraph server needs: routes, review of run requests, auth, and graphs to serve."""

from orcheo_agentensor.targets.served import serve

__all__ = ["serve"]
