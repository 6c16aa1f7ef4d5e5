"""Where telemetry comes from, as OTLP has it."""

import os
from typing import Final
from uuid import uuid4

from opentelemetry.sdk import resources
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from common_telemetry.engines.fast.wire import Origin

_PID: Final = "process.pid"
_INSTANCE: Final = "service.instance.id"
_instances: dict[int, str] = {}  # by process


def origin_of(resource: Resource, scope: InstrumentationScope) -> Origin:
    """The origin of what `scope` reports. A forked child has a pid and an instance id of its own."""
    if resource.attributes.get(_PID) not in (None, os.getpid()):
        fresh: dict[str, str | int] = {**_of_this_process(), _PID: os.getpid()}
        known = {key: value for key, value in fresh.items() if key in resource.attributes}
        resource = resource.merge(Resource(known))
    return Origin(
        resource.attributes,
        resource.schema_url,
        scope.name,
        scope.version,
        scope.schema_url,
        scope.attributes,
    )


def _of_this_process() -> dict[str, str]:
    # The SDK's providers do the same after a fork; for a service.instance.id there is no public way yet.
    detect = getattr(resources, "_get_process_dependent_resource", None)
    if detect is None:  # an SDK that makes no such ids: they are ours
        return {_INSTANCE: _instances.setdefault(os.getpid(), str(uuid4()))}
    try:
        return {key: str(value) for key, value in detect().attributes.items()}
    except RuntimeError:  # it looks in threads of its own, which cannot start when the process ends
        return {}
