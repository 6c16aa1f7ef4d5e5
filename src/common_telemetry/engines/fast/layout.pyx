"""What layout.py does, in C. See there for what is promised; the same tests go through both."""

from struct import calcsize

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Malloc
from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from common_telemetry.engines.fast.pile cimport MOST_FIELDS, Pile, Recipe, copy, let_go

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL

cdef extern from *:
    """
    #include <stdint.h>

    /* OTLP is little endian, wherever this runs. */
    static void put64(char *place, uint64_t number)
    {
        int at;
        for (at = 0; at < 8; at++) { place[at] = (char)(number & 255); number >>= 8; }
    }

    static void put_double(char *place, double number)
    {
        uint64_t bits;
        memcpy(&bits, &number, 8);
        put64(place, bits);
    }
    """
    void put64(char* place, uint64_t number) noexcept
    void put_double(char* place, double number) noexcept

LONGEST = 1_000
BITS = 10

cdef enum:
    MOST = 1_000
    SHIFT = 10
    MESSAGE_TEXT = 0
    ROOT_TEXT = 1
    PARENT_TEXT = 2


@cython.final
@cython.no_gc  # there is nothing but texts in it
@cython.freelist(256)
cdef class MessageIds:
    pass


cpdef MessageIds ids_of(object message_id, object root_id, object parent_ids, MessageIds near=None):
    # `near` saves nothing here: a text has its UTF-8 itself.
    cdef MessageIds made = MessageIds.__new__(MessageIds)
    cdef Py_ssize_t parent = -1
    try:
        made.message_id = message_id
        made.root_id = root_id
        made.parent_ids = parent_ids if type(parent_ids) is tuple else tuple(parent_ids or ())
        made._text[MESSAGE_TEXT] = PyUnicode_AsUTF8AndSize(message_id, &made._size[MESSAGE_TEXT])
        made._text[ROOT_TEXT] = PyUnicode_AsUTF8AndSize(root_id, &made._size[ROOT_TEXT])
        if made.parent_ids:
            (only,) = made.parent_ids
            made._text[PARENT_TEXT] = PyUnicode_AsUTF8AndSize(only, &made._size[PARENT_TEXT])
            parent = made._size[PARENT_TEXT]
    except (AttributeError, ValueError, TypeError):
        return None
    if not made._size[MESSAGE_TEXT]:
        return None
    if made._size[MESSAGE_TEXT] + made._size[ROOT_TEXT] + parent > MOST:
        return None
    made.shape = (
        (<long long>made._size[MESSAGE_TEXT] << SHIFT | made._size[ROOT_TEXT]) << SHIFT | (parent + 1)
    )
    return made


# The parts of a record, those of one length first; and which goes into each field of a layout.
cdef enum:
    TRACE_ID, SPAN_ID, PARENT_ID, MESSAGE, ROOT, PARENT, START, END, QUEUE_TIME

cdef int[14] _ORDER
_ORDER[:] = [
    TRACE_ID, SPAN_ID, PARENT_ID, START, END, MESSAGE, ROOT, PARENT, MESSAGE, ROOT,
    QUEUE_TIME, TRACE_ID, PARENT_ID, MESSAGE,
]


cdef Recipe* _recipe_of(bytes constant, list fields, int stored) except NULL:
    cdef Recipe* recipe = <Recipe*>PyMem_Malloc(sizeof(Recipe) + len(constant))
    if recipe is NULL:
        raise MemoryError
    recipe.users = 1
    recipe.size, recipe.stored, recipe.count = <int>len(constant), stored, 0
    recipe.constant = <char*>recipe + sizeof(Recipe)
    memcpy(recipe.constant, PyBytes_AS_STRING(constant), len(constant))
    for place, at, length in fields:
        recipe.fields[recipe.count].place = place
        recipe.fields[recipe.count].at = at
        recipe.fields[recipe.count].length = length
        recipe.count += 1
    return recipe


@cython.final
cdef class Layout:
    def __cinit__(self, parts):
        cdef int number = 0, length, what, stored = 0
        cdef list fields = []
        cdef bytes constant = b""
        for part in parts:
            if isinstance(part, bytes):
                constant += part
                continue
            if number == MOST_FIELDS:
                raise ValueError("a layout has 14 fields at most")
            length, what = calcsize("<" + part), _ORDER[number]
            number += 1
            if not length:
                continue
            if not self._lengths[what]:
                self._at[what], self._lengths[what] = stored, length
                stored += length
            elif self._lengths[what] != length:
                raise ValueError("what is written twice has one length")
            fields.append((len(constant), self._at[what], length))
            constant += bytes(length)
        if number != 10 and number != MOST_FIELDS:
            raise ValueError(f"{number} fields are neither a publication's nor a processing's")
        self._recipe = _recipe_of(constant, fields, stored)

    def __dealloc__(self):
        if self._recipe is not NULL:
            let_go(self._recipe)

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
        double queue_time_ms=0.0,
    ):
        cdef const char* texts[6]
        cdef Py_ssize_t[6] sizes
        cdef int* lengths = self._lengths
        cdef char* record
        cdef int what
        if trace_id is None or span_id is None or ids is None:
            raise TypeError("a span has a trace, and an id of its own, and the ids of a message")
        texts[TRACE_ID], sizes[TRACE_ID] = PyBytes_AS_STRING(trace_id), PyBytes_GET_SIZE(trace_id)
        texts[SPAN_ID], sizes[SPAN_ID] = PyBytes_AS_STRING(span_id), PyBytes_GET_SIZE(span_id)
        if parent_id is None:
            texts[PARENT_ID], sizes[PARENT_ID] = NULL, 0
        else:
            texts[PARENT_ID], sizes[PARENT_ID] = PyBytes_AS_STRING(parent_id), PyBytes_GET_SIZE(parent_id)
        texts[MESSAGE], sizes[MESSAGE] = ids._text[MESSAGE_TEXT], ids._size[MESSAGE_TEXT]
        texts[ROOT], sizes[ROOT] = ids._text[ROOT_TEXT], ids._size[ROOT_TEXT]
        texts[PARENT], sizes[PARENT] = ids._text[PARENT_TEXT], ids._size[PARENT_TEXT]
        for what in range(START):
            if lengths[what] and sizes[what] != lengths[what]:
                raise ValueError(f"{sizes[what]} bytes do not fit where there are {lengths[what]}")
        record = pile.begin(self._recipe.stored)
        if record is NULL:
            return
        for what in range(START):
            copy(record + self._at[what], texts[what], lengths[what])
        put64(record + self._at[START], <uint64_t>start_ns)
        put64(record + self._at[END], <uint64_t>end_ns)
        if lengths[QUEUE_TIME]:
            put_double(record + self._at[QUEUE_TIME], queue_time_ms)
        pile.end(origin, self._recipe.size, self._recipe)
