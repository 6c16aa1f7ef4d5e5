from common_telemetry.engines.fast.pile cimport Pile

cdef class Buffer(Pile):
    cdef public object wake
    cdef public Py_ssize_t _limit
    cdef public Py_ssize_t _batch
    cdef public bint _woken
    cdef object _write
    cdef public object _weight
    cdef public bint _closed
    cdef public object _counting
    cdef public Py_ssize_t _dropped
    cdef object __weakref__

    cpdef _look(self, Py_ssize_t waiting)
    cpdef _reserve(self, Py_ssize_t count)
    cpdef _drop(self, Py_ssize_t count)
