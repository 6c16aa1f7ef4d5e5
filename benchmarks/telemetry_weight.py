"""What telemetry costs a process before it reports anything: time to import and set up, and memory.

    python -m benchmarks.telemetry_weight fast http/protobuf

Prints one JSON object for a process that has reported one span, one measurement and one log record, to a
backend that is not there. "none" is the interpreter alone.
"""

import json
import os
import sys
import time


def main() -> None:
    """Measure this process."""
    engine, protocol = sys.argv[1:]
    begin = time.perf_counter()
    if engine != "none":
        from common_telemetry import TelemetryConfig, TelemetryContext

        environ = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        }
        config = TelemetryConfig(engine=engine)  # type: ignore[arg-type]
        plugin = TelemetryContext.from_config(config, environ=environ).for_plugin("sink", "1.0.0")
        with plugin.create_span("step"):
            plugin.record_counter("orders")
            plugin.logger().info("look")
    seconds = time.perf_counter() - begin
    with open("/proc/self/statm") as statm:
        resident = int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    print(
        json.dumps({"seconds": seconds, "resident_mb": resident / 1e6, "modules": len(sys.modules)}),
        flush=True,
    )
    os._exit(0)  # there is nobody to report to


if __name__ == "__main__":
    main()
