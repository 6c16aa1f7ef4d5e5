cdef class LazyContext(dict):
    cpdef _fill(self)
