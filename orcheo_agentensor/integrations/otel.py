"""OpenTelemetry: what a run calls, as spans named by the conventions for generative AI."""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler

from orcheo_agentensor.errors import require_extra


class OpenTelemetryHandler(BaseCallbackHandler):
    """A callback that makes a span of every node, model call, tool call and retrieval.

    Names and attributes follow the semantic conventions for generative AI: `invoke_workflow`,
    `chat MODEL` with the tokens it took, `execute_tool NAME`, `retrieval NAME`. Spans of an
    evaluation or a training carry the ids of its run and case. Inputs and outputs stay out of them.

    Args:
        tracer_provider: Where the spans go; the process's own when left out.

    Example:
        >>> from opentelemetry.sdk.trace import TracerProvider
        >>> from orcheo_agentensor.integrations.otel import OpenTelemetryHandler
        >>> OpenTelemetryHandler(tracer_provider=TracerProvider()).run_inline
        True
    """

    run_inline = True  # a span begins in the order of its parents

    def __init__(self, *, tracer_provider: Any = None) -> None:
        require_extra("otel", "opentelemetry")
        from opentelemetry import trace

        self._trace = trace
        self._tracer = trace.get_tracer("orcheo_agentensor", tracer_provider=tracer_provider)
        self._open: dict[UUID, Any] = {}
        self._lock = Lock()

    def on_chain_start(
        self, serialized: dict[str, Any] | None, inputs: Any, *, run_id: UUID, **kwargs: Any
    ) -> None:
        """A graph or node began."""
        name = kwargs.get("name") or _name(serialized)
        node = (kwargs.get("metadata") or {}).get("langgraph_node")
        about = {"gen_ai.operation.name": "invoke_workflow", "gen_ai.workflow.name": name}
        if node:
            about["langgraph.node"] = node
        self._begin(f"invoke_workflow {name}", about, run_id, kwargs)

    def on_chat_model_start(
        self, serialized: dict[str, Any] | None, messages: Any, *, run_id: UUID, **kwargs: Any
    ) -> None:
        """A chat model is called."""
        self._model_begins("chat", serialized, run_id, kwargs)

    def on_llm_start(
        self, serialized: dict[str, Any] | None, prompts: Any, *, run_id: UUID, **kwargs: Any
    ) -> None:
        """A model that takes text is called."""
        self._model_begins("text_completion", serialized, run_id, kwargs)

    def on_tool_start(
        self, serialized: dict[str, Any] | None, input_str: str, *, run_id: UUID, **kwargs: Any
    ) -> None:
        """A tool is called."""
        name = kwargs.get("name") or _name(serialized)
        about = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": name}
        self._begin(f"execute_tool {name}", about, run_id, kwargs)

    def on_retriever_start(
        self, serialized: dict[str, Any] | None, query: str, *, run_id: UUID, **kwargs: Any
    ) -> None:
        """A retriever is asked."""
        name = kwargs.get("name") or _name(serialized)
        about = {"gen_ai.operation.name": "retrieval", "gen_ai.data_source.id": name}
        self._begin(f"retrieval {name}", about, run_id, kwargs)

    def on_llm_end(self, response: Any, *, run_id: UUID, **_: Any) -> None:
        """A model answered."""
        about: dict[str, Any] = {}
        for several in response.generations[:1]:
            message = getattr(several[0], "message", None) if several else None
            usage = getattr(message, "usage_metadata", None) or {}
            for name in ("input_tokens", "output_tokens"):
                if usage.get(name) is not None:
                    about[f"gen_ai.usage.{name}"] = usage[name]
            told = getattr(message, "response_metadata", None) or {}
            if model := told.get("model_name") or told.get("model"):
                about["gen_ai.response.model"] = str(model)
            if reason := told.get("finish_reason") or told.get("stop_reason"):
                about["gen_ai.response.finish_reasons"] = [str(reason)]
        self._end(run_id, about)

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **_: Any) -> None:
        """A graph or node returned."""
        self._end(run_id)

    def on_tool_end(self, output: Any, *, run_id: UUID, **_: Any) -> None:
        """A tool returned."""
        self._end(run_id)

    def on_retriever_end(self, documents: Any, *, run_id: UUID, **_: Any) -> None:
        """A retriever answered."""
        self._end(run_id)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        """A graph or node failed."""
        self._end(run_id, error=error)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        """A model failed."""
        self._end(run_id, error=error)

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        """A tool failed."""
        self._end(run_id, error=error)

    def on_retriever_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        """A retriever failed."""
        self._end(run_id, error=error)

    def _model_begins(
        self,
        operation: str,
        serialized: Mapping[str, Any] | None,
        run_id: UUID,
        kwargs: Mapping[str, Any],
    ) -> None:
        told = kwargs.get("metadata") or {}
        asked = kwargs.get("invocation_params") or {}
        model = told.get("ls_model_name") or asked.get("model") or asked.get("model_name")
        about = {"gen_ai.operation.name": operation}
        if model:
            about["gen_ai.request.model"] = str(model)
        if provider := told.get("ls_provider"):
            about["gen_ai.provider.name"] = str(provider)
        name = f"{operation} {model or kwargs.get('name') or _name(serialized)}"
        self._begin(name, about, run_id, kwargs, kind=self._trace.SpanKind.CLIENT)

    def _begin(
        self,
        name: str,
        about: dict[str, Any],
        run_id: UUID,
        kwargs: Mapping[str, Any],
        *,
        kind: Any = None,
    ) -> None:
        for key, value in (kwargs.get("metadata") or {}).items():
            if key.startswith("agentensor_") and isinstance(value, str | int):
                about[f"agentensor.{key.removeprefix('agentensor_')}"] = value
        with self._lock:
            around = self._open.get(kwargs.get("parent_run_id"))  # type: ignore[arg-type]
            context = None if around is None else self._trace.set_span_in_context(around)
            self._open[run_id] = self._tracer.start_span(
                name,
                context=context,
                kind=kind or self._trace.SpanKind.INTERNAL,
                attributes=about,
            )

    def _end(
        self,
        run_id: UUID,
        about: Mapping[str, Any] | None = None,
        *,
        error: BaseException | None = None,
    ) -> None:
        with self._lock:
            span = self._open.pop(run_id, None)
        if span is None:
            return
        span.set_attributes(about or {})
        if error is not None:
            span.set_attribute("error.type", type(error).__qualname__)
            span.set_status(self._trace.StatusCode.ERROR)
        span.end()


def _name(serialized: Mapping[str, Any] | None) -> str:
    return str((serialized or {}).get("name") or "unnamed")
