from cpython.mem cimport PyMem_Free

cdef extern from *:
    """
    #include <string.h>

    /* What the compiler knows the length of, it copies without a call: an id of a message, a trace, a span. */
    static inline void copy(char *place, const char *from, int length)
    {
        if (length == 36) memcpy(place, from, 36);
        else if (length == 16) memcpy(place, from, 16);
        else if (length == 8) memcpy(place, from, 8);
        else if (length) memcpy(place, from, (size_t)length);
    }
    """
    void copy(char* place, const char* source, int length) noexcept

cdef struct Chunk
cdef struct Run

cdef enum:
    MOST_FIELDS = 14

# Bytes of a record, and where they belong in what is made of it.
cdef struct Field:
    int place
    int at
    int length

# How a record becomes an item: constant bytes, and fields in them. Who uses it is counted, with the interpreter's lock.
cdef struct Recipe:
    Py_ssize_t users
    int size  # of the item
    int stored  # of the record
    int count
    Field[MOST_FIELDS] fields
    char* constant

cdef inline void let_go(Recipe* recipe) noexcept:
    recipe.users -= 1
    if not recipe.users:
        PyMem_Free(recipe)

cdef class Pile:
    cdef public Py_ssize_t _room
    cdef public Py_ssize_t _step
    cdef Chunk* _oldest
    cdef Chunk* _newest
    cdef Chunk* _spare
    cdef int _spares
    cdef Py_ssize_t _count
    cdef object _space

    cpdef bint add(self, object item) except -1
    cpdef write(self, object origin, bytes written)
    cpdef take(self, Py_ssize_t most, Py_ssize_t most_bytes, object write)
    cpdef clear(self)
    cpdef _look(self, Py_ssize_t waiting)
    cpdef _drop(self, Py_ssize_t count)

    cdef char* begin(self, Py_ssize_t size) except? NULL
    cdef int end(self, object owner, Py_ssize_t size, Recipe* recipe) except -1
    cdef Chunk* _begin_chunk(self, Py_ssize_t size) noexcept
    cdef object _next_object(self)
    cdef Run* _next_run(self, Py_ssize_t most, Py_ssize_t most_bytes) except? NULL
    cdef int _release(self, Chunk* chunk) noexcept
    cdef Py_ssize_t _forget(self) except -1
    cdef char* _space_for(self, Py_ssize_t size) except NULL
