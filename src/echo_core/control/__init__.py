"""The control API of a running host: HTTP and JSON on loopback, for the command line, consoles and probes."""
