"""Echo Core measured beside what people would use instead. `make bench`; docs/benchmarks has the results."""
