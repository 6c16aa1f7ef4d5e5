cdef class MessageTelemetry:
    pass
