"""Authentication of the LangGraph server; replace it with your own `Auth`."""

from orcheo_agentensor.server.auth import create_auth

auth = create_auth()
