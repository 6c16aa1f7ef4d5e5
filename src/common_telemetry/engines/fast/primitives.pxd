cdef class Stamps:
    cdef object _time_ns
    cdef object _perf_counter_ns
    cdef bint _is_real

    cpdef long long time_ns(self)
    cpdef long long perf_counter_ns(self)
    cpdef bytes span_id(self)
    cpdef str traceparent(self, bytes trace_id, bytes span_id, long flags)

cdef class ContextSlot:
    cdef object _variable
    cdef bint _is_real

    cpdef get(self)
    cpdef set(self, object value)
    cpdef reset(self, object token)

cpdef bytes new_trace_id()
cpdef bytes new_span_id()
cpdef str traceparent_of(bytes trace_id, bytes span_id, long flags)
