"""What pile.py does, in C. See there for what is promised; the same tests go through both."""

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_FromStringAndSize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.string cimport memcpy

cdef enum:
    ENTRIES = 512
    USUAL = 128 * 1024  # bytes in a chunk, unless one item needs more
    MOST_SPARE = 32  # empty chunks that are kept for what comes
    MOST_KEPT = 4 * 1024 * 1024  # bytes of a request whose place is kept for the next one
    AN_OBJECT = -1  # for a size


# What is known of an item. It has a reference to its owner: the origin of what is written, or the object.
# With a recipe the chunk has its record only, a fifth of its bytes, and the item is made where it is sent from.
cdef struct Entry:
    PyObject* owner
    Recipe* recipe
    int size
    int share

# Items one after the other, and their bytes. They stay where they are until the last who uses them is done.
cdef struct Chunk:
    Chunk* next
    int users
    int first  # the first item that is not taken, and where its bytes begin
    Py_ssize_t start
    int last
    Py_ssize_t end
    Py_ssize_t capacity
    Py_ssize_t weight  # bytes that those not taken will be
    int objects  # of those not taken
    Entry[ENTRIES] entries
    char* bytes

# Items of one chunk that are taken, all of them written.
cdef struct Run:
    Run* next
    Chunk* chunk
    int first
    int last
    Py_ssize_t start


cdef int _drop_entry(Entry* entry) except -1:
    if entry.recipe is not NULL:
        let_go(entry.recipe)
    Py_DECREF(<object>entry.owner)
    return 0


cdef inline void _make(char* place, Recipe* recipe, const char* record) noexcept:
    cdef Field* field
    cdef int at
    memcpy(place, recipe.constant, recipe.size)
    for at in range(recipe.count):
        field = &recipe.fields[at]
        copy(place + field.place, record + field.at, field.length)


@cython.final
cdef class Share:
    """What one origin has of one run: all that can be said of it is how long it is."""

    cdef Py_ssize_t size
    cdef char* place

    def __len__(self):
        return self.size


cdef class Pile:
    def __init__(self, limit, step):
        self._room = limit
        self._step = step

    def __dealloc__(self):
        cdef Chunk* chunk
        self._forget()
        while self._spare is not NULL:
            chunk = self._spare
            self._spare = chunk.next
            PyMem_Free(chunk)

    def __len__(self):
        return self._count

    cpdef bint add(self, object item) except -1:
        if self.begin(0) is NULL:
            return False
        self._newest.objects += 1
        self.end(item, AN_OBJECT, NULL)
        return True

    cpdef write(self, object origin, bytes written):
        cdef char* place = self.begin(PyBytes_GET_SIZE(written))
        if place is not NULL:
            memcpy(place, PyBytes_AS_STRING(written), PyBytes_GET_SIZE(written))
            self.end(origin, PyBytes_GET_SIZE(written), NULL)

    cdef char* begin(self, Py_ssize_t size) except? NULL:
        """Where so many bytes are to be written, and then `end` called, before anything else is.

        NULL where there is no room.
        """
        cdef Chunk* chunk = self._newest
        if self._count < self._room:
            if chunk is NULL or chunk.last == ENTRIES or chunk.end + size > chunk.capacity:
                chunk = self._begin_chunk(size)
            if chunk is not NULL:
                return chunk.bytes + chunk.end
        self._drop(1)
        return NULL

    cdef int end(self, object owner, Py_ssize_t size, Recipe* recipe) except -1:
        """It is written: the item of so many bytes, or the record that the recipe makes it of."""
        cdef Chunk* chunk = self._newest
        cdef Entry* entry = &chunk.entries[chunk.last]
        Py_INCREF(owner)
        entry.owner = <PyObject*>owner
        entry.size = <int>size
        entry.recipe = recipe
        chunk.last += 1
        if recipe is not NULL:
            recipe.users += 1
            chunk.end += recipe.stored
            chunk.weight += size
        elif size > 0:
            chunk.end += size
            chunk.weight += size
        self._count += 1
        if self._count % self._step == 0:
            self._look(self._count)
        return 0

    cdef Chunk* _begin_chunk(self, Py_ssize_t size) noexcept:
        """A chunk with room for so many bytes; NULL if there is no memory."""
        cdef Chunk* chunk = self._spare
        cdef Py_ssize_t capacity = USUAL if size <= USUAL else size
        if chunk is not NULL and capacity == USUAL:
            self._spare = chunk.next
            self._spares -= 1
        else:
            chunk = <Chunk*>PyMem_Malloc(sizeof(Chunk) + capacity)
            if chunk is NULL:
                return NULL
            chunk.bytes = <char*>chunk + sizeof(Chunk)
            chunk.capacity = capacity
        chunk.next = NULL
        chunk.users = 1
        chunk.first = chunk.last = chunk.objects = 0
        chunk.start = chunk.end = chunk.weight = 0
        if self._newest is NULL:
            self._oldest = chunk
        else:
            self._newest.next = chunk
        self._newest = chunk
        return chunk

    cpdef take(self, Py_ssize_t most, Py_ssize_t most_bytes, object write):
        cdef Taken taken = Taken.__new__(Taken)
        cdef Py_ssize_t size = 0
        cdef Run* run
        taken.content = {}
        taken._pile = self
        while taken.count < most and size < most_bytes and self._count:
            run = self._next_run(most - taken.count, most_bytes - size)
            if run is not NULL:
                size += taken._add(run)
                continue
            made = write(self._next_object())
            if made is not None:
                origin, written = made
                taken.content.setdefault(origin, []).append(written)
                size += len(written)
                taken.count += 1
        return taken

    cdef object _next_object(self):
        """The oldest item, which is an object."""
        cdef Chunk* chunk = self._oldest
        cdef object found = <object>chunk.entries[chunk.first].owner
        Py_DECREF(found)
        chunk.first += 1
        chunk.objects -= 1
        self._count -= 1
        return found

    cdef Run* _next_run(self, Py_ssize_t most, Py_ssize_t most_bytes) except? NULL:
        """The oldest items that are written, one after the other; NULL if an object is older."""
        cdef Chunk* chunk = self._oldest
        cdef Run* run
        cdef Entry* entry
        cdef Py_ssize_t size = 0, stored = 0
        cdef int last
        while chunk.first == chunk.last:
            self._oldest = chunk.next  # there is another: more is counted than what was in this one
            self._release(chunk)
            chunk = self._oldest
        last = chunk.first
        if not chunk.objects and chunk.last - chunk.first <= most and chunk.weight <= most_bytes:
            last, size, stored = chunk.last, chunk.weight, chunk.end - chunk.start
        else:
            while last < chunk.last and last - chunk.first < most and size < most_bytes:
                entry = &chunk.entries[last]
                if entry.size == AN_OBJECT:
                    break
                size += entry.size
                stored += entry.size if entry.recipe is NULL else entry.recipe.stored
                last += 1
        if last == chunk.first:
            return NULL
        run = <Run*>PyMem_Malloc(sizeof(Run))
        if run is NULL:
            raise MemoryError
        run.next, run.chunk, run.first, run.last, run.start = NULL, chunk, chunk.first, last, chunk.start
        chunk.users += 1
        self._count -= last - chunk.first
        chunk.first, chunk.start, chunk.weight = last, chunk.start + stored, chunk.weight - size
        return run

    cpdef clear(self):
        return self._forget()

    cdef Py_ssize_t _forget(self) except -1:
        cdef Py_ssize_t forgotten = self._count
        cdef Chunk* chunk = self._oldest
        cdef Chunk* next
        self._oldest = self._newest = NULL
        self._count = 0
        while chunk is not NULL:
            next = chunk.next
            while chunk.first < chunk.last:
                chunk.first += 1
                _drop_entry(&chunk.entries[chunk.first - 1])
            self._release(chunk)
            chunk = next
        return forgotten

    cdef int _release(self, Chunk* chunk) noexcept:
        chunk.users -= 1
        if chunk.users:
            return 0
        if chunk.capacity == USUAL and self._spares < MOST_SPARE:
            chunk.next = self._spare
            self._spare = chunk
            self._spares += 1
        else:
            PyMem_Free(chunk)
        return 0

    cdef char* _space_for(self, Py_ssize_t size) except NULL:
        """A place for a request."""
        if self._space is None or len(self._space) < size or len(self._space) > MOST_KEPT:
            self._space = None
            self._space = PyByteArray_FromStringAndSize(NULL, size + size // 8)
        return PyByteArray_AS_STRING(self._space)

    cpdef _look(self, Py_ssize_t waiting):
        pass

    cpdef _drop(self, Py_ssize_t count):
        pass


@cython.final
cdef class Taken:
    cdef readonly dict content
    cdef readonly Py_ssize_t count
    cdef Pile _pile
    cdef Run* _runs
    cdef Run* _newest
    cdef list _shares  # one after the other, as entries have them

    def __dealloc__(self):
        cdef Run* run
        cdef int at
        while self._runs is not NULL:
            run = self._runs
            self._runs = run.next
            for at in range(run.first, run.last):
                _drop_entry(&run.chunk.entries[at])
            self._pile._release(run.chunk)
            PyMem_Free(run)

    cdef Py_ssize_t _add(self, Run* run) except -1:
        """Add a run; returns how many bytes it has."""
        cdef Entry* entry
        cdef PyObject* origin = NULL
        cdef Share share = None
        cdef dict shares = {}
        cdef Py_ssize_t size = 0
        cdef int at, number = 0
        if self._shares is None:
            self._shares = []
        if self._runs is NULL:
            self._runs = run
        else:
            self._newest.next = run
        self._newest = run
        for at in range(run.first, run.last):
            entry = &run.chunk.entries[at]
            if entry.owner is not origin:  # which changes seldom
                origin = entry.owner
                found = shares.get(<object>origin)
                if found is None:
                    share = Share.__new__(Share)
                    number = len(self._shares)
                    self._shares.append(share)
                    shares[<object>origin] = number
                    self.content.setdefault(<object>origin, []).append(share)
                else:
                    number = found
                    share = <Share>self._shares[number]
            entry.share = number
            share.size += entry.size
            size += entry.size
        self.count += run.last - run.first
        return size

    def joined(self, parts):
        cdef Py_ssize_t size = 0
        cdef char* place
        cdef const char* source
        cdef Share share
        cdef Entry* entry
        cdef Recipe* recipe
        cdef Run* run
        cdef int at
        cdef list all_parts = list(parts)
        for part in all_parts:
            size += len(part)
        place = self._pile._space_for(size)
        for share in self._shares or ():
            share.place = NULL
        for part in all_parts:
            if type(part) is Share:
                (<Share>part).place = place
                place += (<Share>part).size
            else:
                memcpy(place, PyBytes_AS_STRING(part), PyBytes_GET_SIZE(part))
                place += PyBytes_GET_SIZE(part)
        run = self._runs
        while run is not NULL:
            source = run.chunk.bytes + run.start
            for at in range(run.first, run.last):
                entry = &run.chunk.entries[at]
                recipe = entry.recipe
                share = <Share>self._shares[entry.share]
                if share.place is not NULL:
                    if recipe is NULL:
                        memcpy(share.place, source, entry.size)
                    else:
                        _make(share.place, recipe, source)
                    share.place += entry.size
                source += entry.size if recipe is NULL else recipe.stored
            run = run.next
        return memoryview(self._pile._space)[:size]
