"""The engine that writes OTLP itself: telemetry kept in slots, turned into protobuf bytes batch by batch."""
