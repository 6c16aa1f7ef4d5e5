"""What holds for the tests of faults."""

from transports.conftest import collect_what_clients_leave_open

__all__ = ["collect_what_clients_leave_open"]
