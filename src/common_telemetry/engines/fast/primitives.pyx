"""What primitives.py does, in C. See there for what is promised; the same tests go through both."""

import os
import time
from array import array
from contextvars import ContextVar

from cpython.array cimport array as Array
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.ref cimport Py_DECREF, PyObject
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy, memset

cdef extern from "Python.h":
    str PyUnicode_New(Py_ssize_t size, Py_UCS4 maxchar)
    void* PyUnicode_DATA(object text)
    int PyContextVar_Get(object variable, PyObject* default, PyObject** value) except -1
    object PyContextVar_Set(object variable, object value)
    int PyContextVar_Reset(object variable, object token) except -1

cdef extern from *:
    """
    #include <time.h>
    #include <stdint.h>

    #ifdef CLOCK_MONOTONIC
    static int64_t nanoseconds(int clock)
    {
        struct timespec now;
        clock_gettime(clock ? CLOCK_MONOTONIC : CLOCK_REALTIME, &now);
        return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    }
    #define HAS_CLOCKS 1
    #else
    static int64_t nanoseconds(int clock) { (void)clock; return 0; }
    #define HAS_CLOCKS 0
    #endif

    /* xoshiro256++ 1.0 by David Blackman and Sebastiano Vigna, in the public domain: https://prng.di.unimi.it */
    static uint64_t state[4];

    static uint64_t rotated(uint64_t number, int by) { return (number << by) | (number >> (64 - by)); }

    static uint64_t random64(void)
    {
        uint64_t result = rotated(state[0] + state[3], 23) + state[0];
        uint64_t shifted = state[1] << 17;
        state[2] ^= state[0];
        state[3] ^= state[1];
        state[1] ^= state[2];
        state[0] ^= state[3];
        state[2] ^= shifted;
        state[3] = rotated(state[3], 45);
        return result;
    }
    """
    enum: HAS_CLOCKS
    int64_t nanoseconds(int clock) noexcept
    uint64_t random64() noexcept
    uint64_t[4] state

cdef const char* _DIGITS = b"0123456789abcdef"


def _seed():
    cdef bytes entropy = os.urandom(32)
    memcpy(state, PyBytes_AS_STRING(entropy), 32)
    state[0] |= 1  # all zero is the one state it does not leave


_seed()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_seed)  # else parent and child would make the same ids


cpdef bytes new_trace_id():
    cdef uint64_t[2] number
    number[0] = random64()
    number[1] = random64() or 1
    return PyBytes_FromStringAndSize(<char*>number, 16)


cpdef bytes new_span_id():
    cdef uint64_t number = random64() or 1
    return PyBytes_FromStringAndSize(<char*>&number, 8)


# The two digits of each byte.
cdef char[512] _PAIRS
for _byte in range(256):
    _PAIRS[2 * _byte] = _DIGITS[_byte >> 4]
    _PAIRS[2 * _byte + 1] = _DIGITS[_byte & 15]


cdef inline void _hex(char* place, const char* given, Py_ssize_t size) noexcept:
    cdef Py_ssize_t at
    for at in range(size):
        memcpy(place + 2 * at, &_PAIRS[2 * <unsigned char>given[at]], 2)


cpdef str traceparent_of(bytes trace_id, bytes span_id, long flags):
    if trace_id is None or span_id is None or len(trace_id) != 16 or len(span_id) != 8:
        raise ValueError("a trace id has 16 bytes, a span id 8")
    if not 0 <= flags <= 255:
        raise IndexError("flags have 8 bits")
    cdef str made = PyUnicode_New(55, 127)
    cdef char* place = <char*>PyUnicode_DATA(made)
    cdef char low = <char>flags
    memcpy(place, b"00-", 3)
    _hex(place + 3, PyBytes_AS_STRING(trace_id), 16)
    place[35] = c"-"
    _hex(place + 36, PyBytes_AS_STRING(span_id), 8)
    place[52] = c"-"
    _hex(place + 53, &low, 1)
    return made


cdef class Stamps:
    def __init__(self, clock):
        self._time_ns = clock.time_ns
        self._perf_counter_ns = clock.perf_counter_ns
        self._is_real = clock is time and HAS_CLOCKS

    cpdef long long time_ns(self):
        return nanoseconds(0) if self._is_real else self._time_ns()

    cpdef long long perf_counter_ns(self):
        return nanoseconds(1) if self._is_real else self._perf_counter_ns()

    cpdef bytes span_id(self):
        return new_span_id()

    cpdef str traceparent(self, bytes trace_id, bytes span_id, long flags):
        return traceparent_of(trace_id, span_id, flags)


cdef class ContextSlot:
    def __init__(self, variable):
        self._variable = variable
        self._is_real = type(variable) is ContextVar

    cpdef get(self):
        cdef PyObject* found = NULL
        if not self._is_real:
            return self._variable.get()
        PyContextVar_Get(self._variable, NULL, &found)
        if found is NULL:
            raise LookupError(self._variable)
        value = <object>found
        Py_DECREF(value)  # it came with a reference, and the line before has taken another
        return value

    cpdef set(self, value):
        return PyContextVar_Set(self._variable, value) if self._is_real else self._variable.set(value)

    cpdef reset(self, token):
        if self._is_real:
            PyContextVar_Reset(self._variable, token)
        else:
            self._variable.reset(token)


cdef enum:
    MOST_BOUNDS = 64


def count_run(bounds, list counts, values, double total, double low, double high):
    cdef double[MOST_BOUNDS] known
    cdef Py_ssize_t[MOST_BOUNDS + 1] last
    cdef Py_ssize_t[MOST_BOUNDS + 1] new
    cdef int number = len(bounds), at, first, end, middle
    cdef Py_ssize_t index
    cdef double value
    cdef Array numbers = values if type(values) is array else array("d", values)
    if numbers.typecode != "d":
        raise TypeError("a run has doubles")
    if number > MOST_BOUNDS:
        return _count_run_of_many(bounds, counts, values, total, low, high)
    for at in range(number):
        known[at] = bounds[at]
    memset(new, 0, sizeof(new))
    for index in range(len(numbers)):
        value = numbers.data.as_doubles[index]
        total += value
        if value < low:
            low = value
        if value > high:
            high = value
        first, end = 0, number
        while first < end:  # as bisect_left
            middle = (first + end) >> 1
            if known[middle] < value:
                first = middle + 1
            else:
                end = middle
        new[first] += 1
        last[first] = index
    cdef dict found = {}
    for at in range(number + 1):
        if new[at]:
            counts[at] += new[at]
            found[at] = last[at]
    return total, low, high, found


def _count_run_of_many(bounds, counts, values, total, low, high):
    from bisect import bisect_left

    found = {}
    for index, value in enumerate(values):
        total += value
        low, high = min(low, value), max(high, value)
        bucket = bisect_left(bounds, value)
        counts[bucket] += 1
        found[bucket] = index
    return total, low, high, found
