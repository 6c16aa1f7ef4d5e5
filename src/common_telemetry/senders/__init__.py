"""OTLP requests to a backend: over HTTP with the standard library, over gRPC where that is asked for.

A sender makes one attempt at a time and says what came of it; `delivery` repeats attempts as OTLP specifies
(https://opentelemetry.io/docs/specs/otlp/). Neither needs the protobuf runtime, and HTTP does not need grpc.
"""
