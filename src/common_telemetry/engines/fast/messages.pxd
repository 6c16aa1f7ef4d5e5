cimport cython
from common_telemetry.engines.fast.buffer cimport Buffer
from common_telemetry.engines.fast.current_span cimport MessageContext, parent_in
from common_telemetry.engines.fast.headers cimport PublishedHeaders, are_w3c
from common_telemetry.engines.fast.message_spans cimport Site, Standing
from common_telemetry.engines.fast.measuring cimport MessageMeters
from common_telemetry.engines.fast.layout cimport Layout, MessageIds, ids_of
from common_telemetry.engines.fast.primitives cimport ContextSlot, Stamps, new_trace_id
from common_telemetry.messages cimport MessageTelemetry

cdef class _Place:
    cdef public Site site
    cdef public MessageMeters meters

cdef class FastMessages(MessageTelemetry):
    cdef public object bound
    cdef public Stamps stamps
    cdef public object plugin
    cdef public object tracer
    cdef public Buffer buffer
    cdef public list taps
    cdef public Standing standing
    cdef public ContextSlot current
    cdef bint linked
    cdef bint follows_parent
    cdef double max_age_ns
    cdef public object long_way
    cdef object _meters
    cdef public dict _sites
    cdef public dict _known
    cdef public dict _places

    @cython.locals(near=MessageIds, within=_Process, ids=MessageIds, site=Site)
    cpdef publish(self, object topic, object message_id, object root_id, object parent_ids=*, bint is_current=*)
    @cython.locals(
        now_ns=cython.longlong, made_ns=cython.longlong, waited=cython.longlong, published=PublishedHeaders, trace_id=bytes,
        parent_id=bytes, flags=cython.long, ids=MessageIds, place=_Place, waited_ms=cython.double
    )
    cpdef _Process _process(self, object topic, object message, long attempt)
    cpdef Site _site(self, object topic)
    cpdef _Place _place(self, object topic)
    cpdef tuple _read(self, object message, object carrier)

cdef class _Scope(MessageContext):
    cdef public bint _has_remote_parent
    cdef public MessageIds _ids
    cdef public bint _is_plain
    cdef public FastMessages _owner
    cdef public bytes _parent_id
    cdef public long long _perf
    cdef public Site _site
    cdef public object _span
    cdef public long long _start
    cdef public object _token
    cdef public long long ended_ns

    cpdef _write(self, Buffer buffer, object origin)

cdef class _Publish(_Scope):
    cdef public object _here
    cdef public bint _is_current

    cpdef make_current(self)

    @cython.locals(owner=FastMessages, ended=cython.longlong)
    cpdef __exit__(self, object kind, object error, object traceback)
    cpdef dict carrier(self)
    @cython.locals(found=PublishedHeaders)
    cpdef PublishedHeaders _headers(self)
    @cython.locals(
        shape=cython.longlong, key=cython.longlong, site=Site, parent_id=bytes, layout=Layout
    )
    cpdef _write(self, Buffer buffer, object origin)

cdef class _PublishTogether(_Publish):
    cpdef dict carrier(self)
    @cython.locals(shape=cython.longlong, layout=Layout)
    cpdef _write(self, Buffer buffer, object origin)

cdef class _Process(_Scope):
    cdef public long _attempt
    cdef public object _current
    cdef public object _error_type
    cdef public object _failure
    cdef public str _outcome
    cdef public _Place _place
    cdef public double _queue_time_ms

    @cython.locals(owner=FastMessages, ended=cython.longlong, elapsed=cython.longlong)
    cpdef __exit__(self, object kind, object error, object traceback)
    @cython.locals(
        shape=cython.longlong, key=cython.longlong, site=Site, parent_id=bytes, layout=Layout,
        attempt=cython.long, outcome=str, is_child=cython.bint
    )
    cpdef _write(self, Buffer buffer, object origin)

cpdef bint _may_publish(object here)

@cython.locals(made=_Publish, within=_Process, perf=cython.longlong, flags=cython.long, is_local=cython.bint)
cpdef _Publish _publishing(FastMessages owner, Site site, object here, MessageIds ids, bint is_current)

@cython.locals(made=_PublishTogether)
cpdef _PublishTogether _publishing_together(
    FastMessages owner,
    Site site,
    object here,
    MessageIds ids,
    bytes trace_id,
    bytes parent_id,
    long flags,
    bint is_remote,
)

@cython.locals(made=_Process)
cpdef _Process _processing(
    FastMessages owner,
    _Place place,
    double queue_time_ms,
    bytes trace_id,
    bytes parent_id,
    long flags,
    MessageIds ids,
    long attempt,
    long long now_ns,
)
