from common_telemetry.engines.fast.layout cimport Layout

cdef class Standing:
    cdef public bint is_simple
    cdef public bint always
    cdef public object origin

cdef class Site:
    cdef public str name
    cdef public str topic
    cdef public object kind
    cdef public object attributes
    cdef public long long key
    cdef public Layout layout
    cdef dict _layouts
    cdef object _redaction
    cdef bint _linked
    cdef bint _with_root
    cdef bint _with_twins
    cdef dict _before
    cdef dict _after
