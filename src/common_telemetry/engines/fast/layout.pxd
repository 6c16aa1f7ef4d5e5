from common_telemetry.engines.fast.pile cimport Pile, Recipe

cdef class MessageIds:
    cdef readonly object message_id
    cdef readonly object root_id
    cdef readonly tuple parent_ids
    cdef readonly long long shape
    cdef const char* _text[3]
    cdef Py_ssize_t _size[3]

cpdef MessageIds ids_of(object message_id, object root_id, object parent_ids, MessageIds near=*)

cdef class Layout:
    cdef Recipe* _recipe
    cdef int[9] _at  # of each part, in a record; and how long it has to be, for none 0
    cdef int[9] _lengths

    cpdef write(
        self,
        Pile pile,
        object origin,
        bytes trace_id,
        bytes span_id,
        bytes parent_id,
        long long start_ns,
        long long end_ns,
        MessageIds ids,
        double queue_time_ms=*,
    )
