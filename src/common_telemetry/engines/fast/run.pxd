from cpython.ref cimport PyObject

cdef struct Note:
    long long elapsed_ns
    double waited_ms
    long long now_ns
    PyObject* message_id  # a reference to it, as to the others
    PyObject* trace_id  # NULL: it can be no exemplar
    PyObject* span_id

cdef class Run:
    cdef int _limit
    cdef int _count
    cdef int _capacity
    cdef Note* _notes

    cpdef bint note(
        self,
        long long elapsed_ns,
        double waited_ms,
        object message_id,
        object trace_id,
        object span_id,
        long long now_ns,
    ) except -1
    cpdef Noted take(self)

cdef class Noted:
    cdef int _count
    cdef Note* _notes

    cpdef durations(self, double ns)
    cpdef tuple waits(self)
    cpdef bint has_samples(self) except -1
    cpdef sample(self, int at)
