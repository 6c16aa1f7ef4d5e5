cimport cython

from common_telemetry.engines.fast.current_span cimport MessageContext
from common_telemetry.engines.fast.run cimport Run

cdef class MessageMeters:
    cpdef measure(
        self,
        long long elapsed_ns,
        double waited_ms,
        object error_type,
        object message_id,
        MessageContext context,
        long long now_ns,
    )
    cpdef take_in(self)

cdef class _OnSeries(MessageMeters):
    cdef object _metrics
    cdef public Run _run
    cdef bint _is_due
    cdef bint _with_id
    cdef bint _of_sampled
    cdef bint _of_others
    cdef object _targets

    @cython.locals(is_full=cython.bint)
    cpdef measure(
        self,
        long long elapsed_ns,
        double waited_ms,
        object error_type,
        object message_id,
        MessageContext context,
        long long now_ns,
    )
