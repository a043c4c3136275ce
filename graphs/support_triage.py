"""The bundled support-triage workflow, for the LangGraph server."""

from orcheo_agentensor import serve
from orcheo_agentensor.demo.workflow import create_support_triage

graph = serve(create_support_triage(), workflow_id="support_triage")
