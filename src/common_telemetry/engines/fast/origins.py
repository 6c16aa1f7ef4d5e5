"""Where telemetry comes from, as OTLP has it."""

import os
from typing import Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from common_telemetry.engines.fast.wire import Origin

_PID: Final = "process.pid"


def origin_of(resource: Resource, scope: InstrumentationScope) -> Origin:
    """The origin of what `scope` reports. In a forked child the process.pid is that of the child."""
    if resource.attributes.get(_PID) not in (None, os.getpid()):
        resource = resource.merge(Resource({_PID: os.getpid()}))
    return Origin(
        resource.attributes,
        resource.schema_url,
        scope.name,
        scope.version,
        scope.schema_url,
        scope.attributes,
    )
