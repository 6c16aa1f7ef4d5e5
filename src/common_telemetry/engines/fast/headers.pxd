cimport cython
from common_telemetry.engines.fast.layout cimport MessageIds

@cython.locals(known=dict)
cpdef bint are_w3c()

cdef class PublishedHeaders(dict):
    cdef public MessageIds ids
    cdef public bytes trace_id
    cdef public bytes span_id
    cdef public long flags
