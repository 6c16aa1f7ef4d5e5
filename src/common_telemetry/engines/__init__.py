"""The engines behind one interface, `common_telemetry.engine`."""
