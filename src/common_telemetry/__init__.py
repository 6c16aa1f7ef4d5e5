"""OpenTelemetry at message rate; usable alone."""
