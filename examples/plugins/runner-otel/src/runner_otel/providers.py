"""Where spans and metrics go: to the providers of the program, or to those that the environment asks for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

if TYPE_CHECKING:
    from collections.abc import Callable

#: The end of a run waits for the last export of its metrics for so long, in milliseconds.
_PATIENCE = 5_000


@dataclass(frozen=True)
class Providers:
    """What makes spans and instruments. `is_own`: it was made for this run, and ends with it."""

    tracing: TracerProvider | None = None
    metering: MeterProvider | None = None
    is_own: bool = False

    def close(self) -> None:
        """Export what there is; a provider of the program goes on."""
        if self.tracing is not None:
            self.tracing.force_flush()
            if self.is_own:
                self.tracing.shutdown()
        if self.metering is not None:
            self.metering.force_flush(_PATIENCE)
            if self.is_own:
                self.metering.shutdown(_PATIENCE)


def find_providers(say: Callable[[str], None]) -> Providers | None:
    """Return the program's providers, or those that the environment asks for; None: there is nothing to tell."""
    tracing, metering = trace.get_tracer_provider(), metrics.get_meter_provider()
    if isinstance(tracing, TracerProvider) or isinstance(metering, MeterProvider):
        return Providers(
            tracing if isinstance(tracing, TracerProvider) else None,
            metering if isinstance(metering, MeterProvider) else None,
        )
    resource = Resource.create({} if os.environ.get("OTEL_SERVICE_NAME") else {SERVICE_NAME: "runner"})
    exporters = {signal: _make_exporter(signal, say) for signal in ("traces", "metrics")}
    own_tracing = own_metering = None
    if exporters["traces"] is not None:
        own_tracing = TracerProvider(resource=resource)
        own_tracing.add_span_processor(BatchSpanProcessor(exporters["traces"]))
    if exporters["metrics"] is not None:
        own_metering = MeterProvider([PeriodicExportingMetricReader(exporters["metrics"])], resource)
    if own_tracing is None and own_metering is None:
        return None
    return Providers(own_tracing, own_metering, is_own=True)


def _make_exporter(signal: str, say: Callable[[str], None]) -> Any:
    """Return the exporter that OTEL_TRACES_EXPORTER or OTEL_METRICS_EXPORTER names; None: none, or it is missing."""
    variable = f"OTEL_{signal.upper()}_EXPORTER"
    # Only an address asks for both signals; a variable asks for its own one.
    default = "otlp" if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") else "none"
    name = (os.environ.get(variable) or default).strip()
    if name == "none":
        return None
    names = [f"{name}_proto_http", name] if name == "otlp" else [name]
    points = entry_points(group=f"opentelemetry_{signal}_exporter")
    found = next((point for wanted in names for point in points if point.name == wanted), None)
    if found is None:
        way_out = "; pip install 'runner-otel[otlp]'" if name == "otlp" else ""
        say(f"no exporter `{name}` ({variable}) is installed, so no {signal} are exported{way_out}")
        return None
    try:
        return found.load()()
    except Exception as error:  # noqa: BLE001  of whatever it is made
        say(f"exporter `{name}` ({variable}) cannot be used, so no {signal} are exported: {error}")
        return None
