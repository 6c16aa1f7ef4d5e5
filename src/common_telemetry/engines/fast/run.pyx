"""What run.py does, in C. See there for what is promised; the same tests go through both."""

from array import array

cimport cython
from cpython.array cimport array as Array, clone
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.ref cimport Py_INCREF, Py_XDECREF, PyObject

NOT_MEASURED = -1.0

cdef Array _doubles = array("d")


cdef int _free(Note* notes, int count) except -1:
    cdef int at
    for at in range(count):
        Py_XDECREF(notes[at].message_id)
        Py_XDECREF(notes[at].trace_id)
        Py_XDECREF(notes[at].span_id)
    PyMem_Free(notes)
    return 0


@cython.final
cdef class Run:
    def __init__(self, limit):
        self._limit = limit

    def __dealloc__(self):
        _free(self._notes, self._count)

    def __len__(self):
        return self._count

    cpdef bint note(
        self,
        long long elapsed_ns,
        double waited_ms,
        object message_id,
        object trace_id,
        object span_id,
        long long now_ns,
    ) except -1:
        cdef Note* note
        cdef void* found
        if self._count == self._capacity:
            found = PyMem_Realloc(self._notes, (self._capacity + self._limit) * sizeof(Note))
            if found is NULL:
                raise MemoryError
            self._notes = <Note*>found
            self._capacity += self._limit
        note = &self._notes[self._count]
        note.elapsed_ns, note.waited_ms, note.now_ns = elapsed_ns, waited_ms, now_ns
        Py_INCREF(message_id)
        note.message_id = <PyObject*>message_id
        note.trace_id = NULL
        if trace_id is not None:
            Py_INCREF(trace_id)
            note.trace_id = <PyObject*>trace_id
        Py_INCREF(span_id)
        note.span_id = <PyObject*>span_id
        self._count += 1
        return self._count >= self._limit

    cpdef Noted take(self):
        cdef Noted taken = Noted.__new__(Noted)
        taken._notes, taken._count = self._notes, self._count
        self._notes = NULL
        self._count = self._capacity = 0
        return taken


@cython.final
cdef class Noted:
    def __dealloc__(self):
        _free(self._notes, self._count)

    def __len__(self):
        return self._count

    cpdef durations(self, double ns):
        cdef Array found = clone(_doubles, self._count, False)
        cdef int at
        for at in range(self._count):
            found.data.as_doubles[at] = self._notes[at].elapsed_ns / ns
        return found

    cpdef tuple waits(self):
        cdef Array found = clone(_doubles, self._count, False)
        cdef list which = []
        cdef int at, count = 0
        for at in range(self._count):
            if self._notes[at].waited_ms != -1.0:
                found.data.as_doubles[count] = self._notes[at].waited_ms
                which.append(at)
                count += 1
        return found[:count], which

    cpdef bint has_samples(self) except -1:
        cdef int at
        for at in range(self._count):
            if self._notes[at].trace_id is not NULL:
                return True
        return False

    cpdef sample(self, int at):
        cdef Note* note
        if not 0 <= at < self._count:
            raise IndexError(at)
        note = &self._notes[at]
        if note.trace_id is NULL:
            return None
        return note.now_ns, <object>note.trace_id, <object>note.span_id, <object>note.message_id
