"""The bundled support-triage workflow, for the LangGraph server."""

from orcheo_agentensor.demo.workflow import create_support_triage

graph = create_support_triage().compile(name="support_triage")
