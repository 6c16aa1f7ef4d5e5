from common_telemetry.engines.fast.lazy_context cimport LazyContext

cdef class MessageContext(LazyContext):
    cdef public bytes trace_id
    cdef public bytes span_id
    cdef public long flags
    cdef public object trace_state

cpdef identity_in(object context)
cpdef parent_in(object context)
