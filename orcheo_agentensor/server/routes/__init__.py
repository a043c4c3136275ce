"""The HTTP routes under `/agentensor/v1`: what a LangGraph server lacks."""
