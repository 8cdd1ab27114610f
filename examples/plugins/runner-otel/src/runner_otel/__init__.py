"""A run as a trace and as metrics of OpenTelemetry.

supervisor ──events──▶ runner_event ──▶ Telemetry ──▶ spans ─────▶ the SDK's processor, in a thread of its own
                                            └─ last Progress ◀──── the SDK's metric reader, in a thread of its own
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from runner import events, hookimpl

if TYPE_CHECKING:
    from runner_otel.telemetry import Telemetry

_ASKED_BY = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER")

_telemetry: Telemetry | None = None


@hookimpl
def runner_event(event: events.Event) -> None:
    """Tell OpenTelemetry of a run, from its first event to its last one."""
    global _telemetry  # noqa: PLW0603  one run at a time in a process
    if isinstance(event, events.RunStarted):
        _telemetry = _begin()
    if _telemetry is not None:
        _telemetry.hear(event)
        if isinstance(event, events.RunEnded):
            ended, _telemetry = _telemetry, None
            ended.close()


def _begin() -> Telemetry | None:
    """Return what hears this run, if that was asked for."""
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    # Imported here: installing the plugin costs a run that is not traced nothing.
    if not any(os.environ.get(name) for name in _ASKED_BY) and "opentelemetry.sdk" not in sys.modules:
        return None
    from runner_otel import providers
    from runner_otel.telemetry import Telemetry

    found = providers.find_providers(say)
    return None if found is None else Telemetry(found)


def say(text: str) -> None:
    """Tell the person who runs this."""
    print(f"otel: {text}", file=sys.stderr, flush=True)
