/* The recorder's hot path in C: what `reference.PythonRecorder` does for each call, on the same memory, word for word.

   `Core` stands before PythonRecorder among the bases of `recorder.Recorder`. What is seldom done (a new shape, a new
   place, a thread's or a tally's first time) is asked of the Python methods; layout and flags come from their modules.

   Threads: everything that may run Python code, or allocate an object (which may run finalizers), is done before the
   state is changed; what changes it never gives up the interpreter's lock in between, and so needs none of its own.

   Errors of our own are dropped, like the ones in Python; what a signal handler raised belongs to the job. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* The interpreter's own frames, read where they are: asking for frame objects makes them. Elsewhere they are asked for,
   and also where they are not what they are taken for (see `frames_agree`). */
#if PY_VERSION_HEX < 0x030E0000 && defined(__has_include)
#if __has_include(<internal/pycore_frame.h>)
#define OWN_FRAMES 1
#define Py_BUILD_CORE 1
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
#include <internal/pycore_frame.h>
#pragma GCC diagnostic pop
#undef Py_BUILD_CORE
#endif
#endif

#ifdef Py_GIL_DISABLED
#error "free-threaded builds of Python use the recorder in Python"
#endif

/* What this file and reference.py have agreed upon: the names that they use of one another. */
#define CONTRACT 3

/* ------------------------------------------------------------------------------------------- what Python modules say */

#define LAYOUT(X)                                                                                                      \
    X(C_BATCHED) X(C_BLOCKED) X(C_CAPPED) X(C_CONCURRENT) X(C_COUNT) X(C_CPU_FIRST) X(C_CPU_SAMPLED) X(C_DISTINCT)     \
    X(C_ERRORS) X(C_FIRST) X(C_IDEMPOTENCY) X(C_IN_TRANSACTION) X(C_ITEMS) X(C_LAST) X(C_MAX) X(C_MAX_ROWS) X(C_MIN)   \
    X(C_NEW_CONNECTIONS) X(C_NO_TIMEOUT) X(C_RECEIVED) X(C_ROWS) X(C_ROWS_KNOWN) X(C_SENT) X(C_TOTAL)                  \
    X(CELL_WORDS) X(CELLS) X(CELLS_AT) X(CPU_EVERY) X(DISTINCT_PER_CELL) X(DISTINCT_TOTAL)                             \
    X(FLIGHT_WORDS) X(FLIGHTS) X(FLIGHTS_AT) X(H_CHANNELS) X(H_PHASES) X(H_PID) X(H_SPANS) X(H_TRUNCATED)             \
    X(PHASE_MARKS) X(PHASE_WORDS) X(PHASES_AT) X(SIZE) X(SPAN_ERROR) X(SPAN_IN_TRANSACTION) X(SPAN_WORDS) X(SPANS) X(SPANS_AT) X(TALLY_ERROR) X(TALLY_STATUS) X(WORD)
#define FLAGS(X)                                                                                                       \
    X(BATCHED) X(CONCURRENT) X(COUNTED) X(CPU) X(IDEMPOTENCY_KEY) X(IN_TRANSACTION) X(NEW_CONNECTION) X(NO_TIMEOUT)    \
    X(PASSTHROUGH)
#define LIMITS(X) X(OVER_BUDGET) X(PLACES) X(TRAIL_DEPTH)

#define DECLARE(name) static int64_t name;
LAYOUT(DECLARE)
FLAGS(DECLARE)
LIMITS(DECLARE)
static int64_t channels; /* how many there are */
static uint64_t distinct_factor, distinct_cell_factor;
static PyObject *phase_index; /* layout's dict of names */
static int64_t silent_phases, timed_phases; /* a bit for each */

#define MOST_CHANNELS 32
#define MOST_FLIGHTS 256
#define FIRST_BITS 6 /* of the table of distinct parameters */

static PyObject *inside;          /* calls.inside */
static PyObject *files;           /* callsites.files: whether a file is the application's */
static PyObject *beyond_greenlets;
static PyObject *foreign;
static PyObject *perf_counter_ns; /* the clocks that need not be called */
static PyObject *thread_time_ns;
static PyObject *process_time_ns;
static PyObject *modules;         /* sys.modules */
static PyObject *running_loop;    /* asyncio's, once it was imported */
static PyObject *current_task;

#define NAMES(X)                                                                                                       \
    X(_cell_at) X(_get_running_loop) X(_intern) X(_number) X(_other_cell) X(_tally_at) X(asyncio) X(current_task)      \
    X(params) X(flags) X(passthrough) X(error) X(rows) X(sent) X(received) X(status) X(items) X(blocked_ns)            \
    X(_jobdoctor_call) X(_jobdoctor_seen) X(_list) X(_uri_reference) X(command_stack) X(extensions) X(headers)         \
    X(method) X(network_stream) X(num_bytes_downloaded) X(status_code) X(stream) X(timeout) X(url)                     \
    X(_conn) X(_rowcount) X(connection) X(connection_pool) X(current) X(rowcount)                                     \
    X(channel) X(operation) X(fingerprint) X(target) X(library) X(effect) X(relationship) X(unknown)
#define DECLARE_NAME(name) static PyObject *s_##name;
NAMES(DECLARE_NAME)
static PyObject *s_nothing; /* "" */
static PyObject *s_psycopg; /* "psycopg." */
static PyObject *cursor_types; /* whether they are psycopg's */

/* ------------------------------------------------------------------------------------------------------------- types */

typedef struct {
    PyObject_HEAD
    Py_buffer view; /* of the memory; words is NULL without one */
    int64_t *words;
    PyObject *generation, *clock, *thread_clock, *cpu_clock, *shapes, *threads, *open, *schedule;
    long long phase;
    unsigned long ident; /* the thread that called last, and its number */
    int64_t thread;
    char silent;
    int64_t spans, busy, calls_in_flight, top, last, channels_at, places;
    int64_t flight[MOST_CHANNELS];
    int64_t slots[MOST_FLIGHTS], free_slots;
    uint64_t *seen; /* the table of `distinct.Distinct` */
    int seen_bits;
    int64_t seen_used;
} Core;

typedef struct {
    PyObject_HEAD
    Core *recorder;
    PyObject *generation;
    int64_t index, at, channel, begun;
    int64_t status, status_at; /* the tally that was used last */
    PyObject *error_type;
    int64_t error_at;
} Cell;

typedef struct {
    PyCodeObject *code; /* NULL: no application frame */
    int lasti;
    Cell *cell; /* NULL: free */
} Place;

typedef struct {
    PyObject_HEAD
    PyObject *identity, *generation;
    int64_t channel, reference;
    Place *places; /* open addressing, a power of two */
    Py_ssize_t room, used;
    /* How deep the library's entry was, below the application's frame, with its code; and another one in between. */
    long depth;
    PyCodeObject *entry, *middle;
} Shape;

typedef struct {
    PyObject_HEAD
    Core *recorder;
    Cell *cell;
    PyObject *generation;
    int64_t start, cpu, flags, slot, thread, params;
    char ended;
} Call;

static PyTypeObject CoreType, CellType, ShapeType, CallType;

/* ------------------------------------------------------------------------------------------------------------ errors */

static PyObject *
take_error(void)
{
#if PY_VERSION_HEX >= 0x030C0000
    return PyErr_GetRaisedException();
#else
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (value != NULL && traceback != NULL) {
        PyException_SetTraceback(value, traceback);
    }
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return value;
#endif
}

static void
put_error(PyObject *error)
{
#if PY_VERSION_HEX >= 0x030C0000
    PyErr_SetRaisedException(error);
#else
    PyObject *traceback = PyException_GetTraceback(error);
    PyErr_Restore(Py_NewRef((PyObject *)Py_TYPE(error)), error, traceback);
#endif
}

/* Drops the error that is set. -1, and it stays set, when it is not ours. */
static int
swallow(void)
{
    PyObject *error = take_error();
    if (error == NULL) {
        return 0;
    }
    PyObject *answer = PyObject_CallOneArg(foreign, error);
    int theirs = answer == NULL ? -1 : PyObject_IsTrue(answer);
    Py_XDECREF(answer);
    if (theirs > 0) {
        put_error(error);
        return -1;
    }
    Py_DECREF(error);
    if (theirs < 0 && PyErr_ExceptionMatches(PyExc_Exception)) {
        PyErr_Clear();
    }
    return PyErr_Occurred() ? -1 : 0;
}

/* ------------------------------------------------------------------------------------------------------------ clocks */

static int
read_clock(PyObject *clock, int64_t *ns)
{
#ifdef __linux__ /* where time.perf_counter_ns is CLOCK_MONOTONIC */
    if (clock == perf_counter_ns || clock == thread_time_ns || clock == process_time_ns) {
        struct timespec now;
        clockid_t which = clock == perf_counter_ns  ? CLOCK_MONOTONIC
                          : clock == thread_time_ns ? CLOCK_THREAD_CPUTIME_ID
                                                    : CLOCK_PROCESS_CPUTIME_ID;
        if (clock_gettime(which, &now) == 0) {
            *ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
            return 0;
        }
    }
#endif
    PyObject *answer = clock == NULL ? NULL : PyObject_CallNoArgs(clock);
    if (answer == NULL) {
        return -1;
    }
    *ns = PyLong_AsLongLong(answer);
    Py_DECREF(answer);
    return *ns == -1 && PyErr_Occurred() ? -1 : 0;
}

/* ---------------------------------------------------------------------------------------------- the application frame */

static int
is_application(PyCodeObject *code)
{
    PyObject *known = PyDict_GetItemWithError(files, code->co_filename);
    if (known != NULL) {
        return known == Py_True;
    }
    if (PyErr_Occurred()) {
        return -1;
    }
    known = PyObject_GetItem(files, code->co_filename); /* found out, and remembered */
    if (known == NULL) {
        return -1;
    }
    int application = known == Py_True;
    Py_DECREF(known);
    return application;
}

#ifdef OWN_FRAMES
typedef struct _PyInterpreterFrame Frame;

static bool own_frames; /* whether they can be read here */

static inline Frame *
complete(Frame *frame)
{
#if PY_VERSION_HEX >= 0x030C0000
    while (frame != NULL && frame->owner == FRAME_OWNED_BY_CSTACK) {
        frame = frame->previous;
    }
#endif
    return frame;
}

static inline Frame *
innermost(void)
{
#if PY_VERSION_HEX >= 0x030D0000
    return complete(PyThreadState_Get()->current_frame);
#else
    return complete(PyThreadState_Get()->cframe->current_frame);
#endif
}

static inline Frame *
caller(Frame *frame)
{
    return complete(frame->previous);
}

static inline PyCodeObject *
code_of(Frame *frame)
{
#if PY_VERSION_HEX >= 0x030D0000
    return (PyCodeObject *)frame->f_executable;
#else
    return frame->f_code;
#endif
}

static inline int
lasti_of(Frame *frame)
{
#if PY_VERSION_HEX >= 0x030D0000
    _Py_CODEUNIT *instruction = frame->instr_ptr;
#else
    _Py_CODEUNIT *instruction = frame->prev_instr;
#endif
    Py_ssize_t lasti = instruction - _PyCode_CODE(code_of(frame));
    return lasti < 0 ? -1 : (int)(lasti * (Py_ssize_t)sizeof(_Py_CODEUNIT));
}

/* Whether the stack that runs now reads the same as the interpreter says it is. */
static bool
frames_agree(void)
{
    PyFrameObject *said = PyThreadState_GetFrame(PyThreadState_Get());
    Frame *frame = said == NULL ? NULL : innermost();
    bool same = said != NULL;
    while (said != NULL && same) {
        PyCodeObject *code = PyFrame_GetCode(said);
        same = frame != NULL && code_of(frame) == code && lasti_of(frame) == PyFrame_GetLasti(said);
        Py_DECREF(code);
        Py_SETREF(said, PyFrame_GetBack(said));
        frame = frame == NULL ? NULL : caller(frame);
    }
    Py_XDECREF(said);
    return same && frame == NULL;
}
#endif

static PyObject *
absent_frame(void)
{
    PyObject *found = PyObject_CallNoArgs(beyond_greenlets);
    if (found != NULL && !PyFrame_Check(found)) {
        Py_CLEAR(found);
    }
    return found;
}

/* The first application frame, from the caller on. NULL when there is none, or with an error. */
static PyFrameObject *
application_frame(void)
{
    PyFrameObject *frame = PyThreadState_GetFrame(PyThreadState_Get());
    while (frame != NULL) {
        PyCodeObject *code = PyFrame_GetCode(frame);
        int application = is_application(code);
        Py_DECREF(code); /* the frame keeps it */
        if (application < 0) {
            Py_DECREF(frame);
            return NULL;
        }
        if (application) {
            return frame;
        }
        Py_SETREF(frame, PyFrame_GetBack(frame));
    }
    return (PyFrameObject *)absent_frame();
}

/* ------------------------------------------------------------------------------------------------------------- cells */

static PyObject *
cell_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    Core *recorder;
    long long index, channel;
    if (!PyArg_ParseTuple(args, "O!LL:Cell", &CoreType, &recorder, &index, &channel)) {
        return NULL;
    }
    if (index < 0 || index >= CELLS || channel < 0 || channel >= channels) {
        PyErr_SetString(PyExc_ValueError, "no such cell or channel");
        return NULL;
    }
    Cell *self = (Cell *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->recorder = (Core *)Py_NewRef(recorder);
        self->generation = Py_XNewRef(recorder->generation);
        self->index = index;
        self->at = CELLS_AT / WORD + index * CELL_WORDS;
        self->channel = channel;
    }
    return (PyObject *)self;
}

static int
cell_traverse(Cell *self, visitproc visit, void *arg)
{
    Py_VISIT(self->recorder);
    Py_VISIT(self->generation);
    Py_VISIT(self->error_type);
    return 0;
}

static int
cell_clear(Cell *self)
{
    Py_CLEAR(self->recorder);
    Py_CLEAR(self->generation);
    Py_CLEAR(self->error_type);
    return 0;
}

static void
cell_dealloc(Cell *self)
{
    PyObject_GC_UnTrack(self);
    cell_clear(self);
    Py_TYPE(self)->tp_free(self);
}

/* The cell's words, NULL when it is of an execution before. */
static int64_t *
cell_words(Cell *self)
{
    Core *core = self->recorder;
    return core != NULL && core->words != NULL && self->generation == core->generation ? core->words + self->at : NULL;
}

static void
add_facts(int64_t *cell, int64_t rows, int64_t sent, int64_t received, int64_t items, int64_t blocked_ns)
{
    if (rows >= 0) {
        cell[C_ROWS_KNOWN] = 1;
        cell[C_ROWS] += rows;
        if (rows > cell[C_MAX_ROWS]) {
            cell[C_MAX_ROWS] = rows;
        }
    }
    cell[C_SENT] += sent;
    cell[C_RECEIVED] += received;
    cell[C_ITEMS] += items;
    if (blocked_ns > 0) {
        cell[C_BLOCKED] += blocked_ns;
    }
}

/* ----------------------------------------------------------------------------------------------------------- keywords */

/* Takes positional and keyword arguments apart, into as many places as there are names. */
static int
arguments(const char *function, PyObject **places, PyObject *const *names, Py_ssize_t count, PyObject *const *args,
          Py_ssize_t given, PyObject *keywords)
{
    if (given > count) {
        PyErr_Format(PyExc_TypeError, "%s() takes at most %zd arguments (%zd given)", function, count, given);
        return -1;
    }
    for (Py_ssize_t at = 0; at < given; at++) {
        places[at] = args[at];
    }
    for (Py_ssize_t key = 0, keys = keywords == NULL ? 0 : PyTuple_GET_SIZE(keywords); key < keys; key++) {
        PyObject *name = PyTuple_GET_ITEM(keywords, key);
        Py_ssize_t at = 0;
        while (at < count && names[at] != name) {
            at++;
        }
        for (Py_ssize_t slow = 0; at == count && slow < count; slow++) { /* a name that is not interned */
            int same = PyObject_RichCompareBool(names[slow], name, Py_EQ);
            if (same < 0) {
                return -1;
            }
            if (same) {
                at = slow;
            }
        }
        if (at == count || places[at] != NULL) {
            PyErr_Format(PyExc_TypeError, "%s() got an unexpected or repeated argument %R", function, name);
            return -1;
        }
        places[at] = args[given + key];
    }
    return 0;
}

/* A number, or what stands for none when it is none. */
static int64_t
number(PyObject *value, int64_t none)
{
    if (value == NULL || value == Py_None) {
        return none;
    }
    int64_t taken = PyLong_AsLongLong(value);
    if (taken == -1 && PyErr_Occurred()) {
        PyErr_Clear();
        return none;
    }
    return taken;
}

static PyObject *
cell_add(Cell *self, PyObject *const *args, Py_ssize_t given, PyObject *keywords)
{
    PyObject *const names[] = {s_rows, s_sent, s_received, s_items, s_blocked_ns};
    PyObject *places[5] = {NULL};
    if (arguments("add", places, names, 5, args, given, keywords) < 0) {
        return NULL;
    }
    int64_t rows = number(places[0], -1), sent = number(places[1], 0), received = number(places[2], 0);
    int64_t items = number(places[3], 0), blocked_ns = number(places[4], 0);
    int64_t *cell = cell_words(self);
    if (cell != NULL) {
        add_facts(cell, rows, sent, received, items, blocked_ns);
    }
    Py_RETURN_NONE;
}

static PyMemberDef cell_members[] = {
    {"at", T_LONGLONG, offsetof(Cell, at), READONLY, NULL},
    {"begun", T_LONGLONG, offsetof(Cell, begun), READONLY, NULL},
    {"channel", T_LONGLONG, offsetof(Cell, channel), READONLY, NULL},
    {"generation", T_OBJECT, offsetof(Cell, generation), READONLY, NULL},
    {"index", T_LONGLONG, offsetof(Cell, index), READONLY, NULL},
    {"recorder", T_OBJECT, offsetof(Cell, recorder), READONLY, NULL},
    {NULL},
};

static PyMethodDef cell_methods[] = {
    {"add", (PyCFunction)(void (*)(void))cell_add, METH_FASTCALL | METH_KEYWORDS,
     "What became known after a call ended, such as rows fetched. Never raises."},
    {NULL},
};

static PyTypeObject CellType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "jobdoctor.capture._accelerator.Cell",
    .tp_basicsize = sizeof(Cell),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_doc = "All calls of one shape from one line.",
    .tp_new = cell_new,
    .tp_traverse = (traverseproc)cell_traverse,
    .tp_clear = (inquiry)cell_clear,
    .tp_dealloc = (destructor)cell_dealloc,
    .tp_free = PyObject_GC_Del,
    .tp_methods = cell_methods,
    .tp_members = cell_members,
};

/* ------------------------------------------------------------------------------------------------------------ shapes */

static PyObject *
shape_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    PyObject *identity, *generation;
    long long channel;
    if (!PyArg_ParseTuple(args, "O!LO:Shape", &PyTuple_Type, &identity, &channel, &generation)) {
        return NULL;
    }
    Shape *self = (Shape *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->identity = Py_NewRef(identity);
        self->generation = Py_NewRef(generation);
        self->channel = channel;
    }
    return (PyObject *)self;
}

static int
shape_traverse(Shape *self, visitproc visit, void *arg)
{
    Py_VISIT(self->identity);
    Py_VISIT(self->generation);
    Py_VISIT(self->entry);
    Py_VISIT(self->middle);
    for (Py_ssize_t at = 0; at < self->room; at++) {
        Py_VISIT(self->places[at].code);
        Py_VISIT(self->places[at].cell);
    }
    return 0;
}

static int
shape_clear(Shape *self)
{
    Place *places = self->places;
    Py_ssize_t room = self->room;
    self->places = NULL;
    self->room = self->used = 0;
    for (Py_ssize_t at = 0; at < room; at++) {
        Py_XDECREF(places[at].code);
        Py_XDECREF(places[at].cell);
    }
    PyMem_Free(places);
    Py_CLEAR(self->identity);
    Py_CLEAR(self->generation);
    Py_CLEAR(self->entry);
    Py_CLEAR(self->middle);
    return 0;
}

static void
shape_dealloc(Shape *self)
{
    PyObject_GC_UnTrack(self);
    shape_clear(self);
    Py_TYPE(self)->tp_free(self);
}

/* The place of an instruction, or the free one where it belongs. There always is one. */
static Place *
place_of(Place *places, Py_ssize_t room, PyCodeObject *code, int lasti)
{
    uint64_t hash = ((uint64_t)(uintptr_t)code ^ (uint64_t)(unsigned)lasti) * UINT64_C(0x9E3779B97F4A7C15);
    Py_ssize_t at = (Py_ssize_t)(hash >> 32) & (room - 1);
    while (places[at].cell != NULL && (places[at].code != code || places[at].lasti != lasti)) {
        at = (at + 1) & (room - 1);
    }
    return &places[at];
}

static int
remember_place(Shape *self, PyCodeObject *code, int lasti, Cell *cell)
{
    if ((self->used + 1) * 4 > self->room * 3) {
        Py_ssize_t room = self->room ? self->room * 2 : 2;
        Place *places = PyMem_Calloc((size_t)room, sizeof(Place));
        if (places == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        for (Py_ssize_t at = 0; at < self->room; at++) {
            Place *old = &self->places[at];
            if (old->cell != NULL) {
                *place_of(places, room, old->code, old->lasti) = *old;
            }
        }
        PyMem_Free(self->places);
        self->places = places;
        self->room = room;
    }
    Place *place = place_of(self->places, self->room, code, lasti);
    if (place->cell == NULL) { /* another thread may have been faster */
        place->code = (PyCodeObject *)Py_XNewRef(code);
        place->lasti = lasti;
        place->cell = (Cell *)Py_NewRef(cell);
        self->used++;
    }
    return 0;
}

#ifdef OWN_FRAMES
static void
leave_trail(Shape *shape, Frame *frame, long depth)
{
    PyCodeObject *middle = NULL, *entry = NULL;
    for (long at = 0; at < depth; at++, frame = caller(frame)) {
        entry = code_of(frame);
        middle = at == depth / 2 ? entry : middle;
    }
    shape->depth = depth;
    PyCodeObject *old_entry = shape->entry, *old_middle = shape->middle;
    shape->entry = (PyCodeObject *)Py_XNewRef(entry);
    shape->middle = (PyCodeObject *)Py_XNewRef(middle);
    Py_XDECREF(old_entry);
    Py_XDECREF(old_middle);
}

/* The cell of the calls from where the program is, when it is known and cheap to find; borrowed. It is where it was the
   last time, if the way there is the same, or else the first application frame of a walk. */
static Cell *
known_cell(Shape *shape)
{
    if (!shape->used || !own_frames) {
        return NULL;
    }
    Frame *frame = innermost();
    if (shape->depth) {
        Frame *up = frame;
        long depth = 0;
        for (; up != NULL && depth < shape->depth; depth++, up = caller(up)) {
            if ((depth == shape->depth - 1 && code_of(up) != shape->entry) ||
                (depth == shape->depth / 2 && code_of(up) != shape->middle)) {
                break;
            }
        }
        if (up != NULL && depth == shape->depth) {
            Cell *cell = place_of(shape->places, shape->room, code_of(up), lasti_of(up))->cell;
            if (cell != NULL) {
                return cell;
            }
        }
    }
    Frame *up = frame;
    for (long depth = 0; up != NULL; depth++, up = caller(up)) {
        PyObject *application = PyDict_GetItemWithError(files, code_of(up)->co_filename);
        if (application == NULL) {
            PyErr_Clear();
            return NULL;
        }
        if (application == Py_True) {
            Cell *cell = place_of(shape->places, shape->room, code_of(up), lasti_of(up))->cell;
            if (cell != NULL && depth + 1 >= TRAIL_DEPTH) {
                leave_trail(shape, frame, depth);
            }
            return cell;
        }
    }
    return NULL;
}
#endif

static PyMemberDef shape_members[] = {
    {"channel", T_LONGLONG, offsetof(Shape, channel), READONLY, NULL},
    {"generation", T_OBJECT, offsetof(Shape, generation), READONLY, NULL},
    {"identity", T_OBJECT, offsetof(Shape, identity), READONLY, NULL},
    {"reference", T_LONGLONG, offsetof(Shape, reference), 0, NULL},
    {NULL},
};

static PyTypeObject ShapeType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "jobdoctor.capture._accelerator.Shape",
    .tp_basicsize = sizeof(Shape),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_doc = "An interned shape of call, good for the execution it was made in.",
    .tp_new = shape_new,
    .tp_traverse = (traverseproc)shape_traverse,
    .tp_clear = (inquiry)shape_clear,
    .tp_dealloc = (destructor)shape_dealloc,
    .tp_free = PyObject_GC_Del,
    .tp_members = shape_members,
};

/* -------------------------------------------------------------------------------------------------- the core's memory */

static PyObject *
core_attach(Core *self, PyObject *buffer)
{
    if (self->words != NULL) {
        PyBuffer_Release(&self->view);
        self->words = NULL;
    }
    if (PyObject_GetBuffer(buffer, &self->view, PyBUF_WRITABLE) < 0) {
        return NULL;
    }
    if (self->view.len < SIZE || (uintptr_t)self->view.buf % 8) {
        PyBuffer_Release(&self->view);
        PyErr_SetString(PyExc_ValueError, "not a recorder's memory");
        return NULL;
    }
    self->words = self->view.buf;
    Py_RETURN_NONE;
}

static PyObject *
core_detach(Core *self, PyObject *Py_UNUSED(none))
{
    if (self->words != NULL) {
        self->words = NULL;
        PyBuffer_Release(&self->view);
    }
    Py_RETURN_NONE;
}

static PyObject *
core_forget_calls(Core *self, PyObject *Py_UNUSED(none))
{
    PyObject *generation = PyObject_CallNoArgs((PyObject *)&PyBaseObject_Type);
    if (generation == NULL) {
        return NULL;
    }
    Py_XSETREF(self->generation, generation);
    self->spans = self->busy = self->calls_in_flight = self->top = self->last = self->places = 0;
    self->channels_at = H_CHANNELS;
    memset(self->flight, 0, sizeof self->flight);
    self->free_slots = FLIGHTS;
    for (int64_t slot = 0; slot < FLIGHTS; slot++) {
        self->slots[slot] = FLIGHTS - 1 - slot;
    }
    PyMem_RawFree(self->seen);
    self->seen = NULL;
    self->seen_used = 0;
    self->seen_bits = 0;
    Py_RETURN_NONE;
}

static int
core_traverse(Core *self, visitproc visit, void *arg)
{
    Py_VISIT(self->generation);
    Py_VISIT(self->clock);
    Py_VISIT(self->thread_clock);
    Py_VISIT(self->cpu_clock);
    Py_VISIT(self->schedule);
    Py_VISIT(self->shapes);
    Py_VISIT(self->threads);
    Py_VISIT(self->open);
    Py_VISIT(self->view.obj);
    return 0;
}

static int
core_clear(Core *self)
{
    Py_CLEAR(self->generation);
    Py_CLEAR(self->clock);
    Py_CLEAR(self->thread_clock);
    Py_CLEAR(self->cpu_clock);
    Py_CLEAR(self->schedule);
    Py_CLEAR(self->shapes);
    Py_CLEAR(self->threads);
    Py_CLEAR(self->open);
    if (self->words != NULL) {
        self->words = NULL;
        PyBuffer_Release(&self->view);
    }
    return 0;
}

static void
core_dealloc(Core *self)
{
    PyObject_GC_UnTrack(self);
    core_clear(self);
    PyMem_RawFree(self->seen);
    Py_TYPE(self)->tp_free(self);
}

/* --------------------------------------------------------------------------------------------------- a call's begin */

/* The number of the thread that runs, -1 with an error. */
static int64_t
thread_number(Core *self)
{
    unsigned long ident = PyThread_get_thread_ident();
    if (ident == self->ident) {
        return self->thread;
    }
    PyObject *key = PyLong_FromUnsignedLong(ident);
    if (key == NULL) {
        return -1;
    }
    PyObject *known = self->threads == NULL ? NULL : Py_XNewRef(PyDict_GetItemWithError(self->threads, key));
    if (known == NULL && !PyErr_Occurred()) {
        known = PyObject_CallMethodOneArg((PyObject *)self, s__number, key);
    }
    Py_DECREF(key);
    if (known == NULL) {
        return -1;
    }
    int64_t thread = PyLong_AsLongLong(known);
    Py_DECREF(known);
    if (thread == -1 && PyErr_Occurred()) {
        return -1;
    }
    self->ident = ident;
    self->thread = thread;
    return thread;
}

/* As `reference._strand`: the asyncio task, or else the thread, that runs now. */
static PyObject *
strand(void)
{
    if (running_loop == NULL) {
        PyObject *asyncio = PyDict_GetItemWithError(modules, s_asyncio);
        if (asyncio != NULL) {
            Py_INCREF(asyncio);
            PyObject *task = PyObject_GetAttr(asyncio, s_current_task);
            PyObject *loop = task == NULL ? NULL : PyObject_GetAttr(asyncio, s__get_running_loop);
            Py_DECREF(asyncio);
            if (loop != NULL) {
                Py_XSETREF(current_task, task);
                Py_XSETREF(running_loop, loop);
            }
            else {
                Py_XDECREF(task);
                if (!PyErr_ExceptionMatches(PyExc_AttributeError)) {
                    return NULL;
                }
                PyErr_Clear(); /* it is being imported */
            }
        }
        else if (PyErr_Occurred()) {
            return NULL;
        }
    }
    if (running_loop != NULL) {
        PyObject *loop = PyObject_CallNoArgs(running_loop);
        if (loop == NULL) {
            return NULL;
        }
        if (loop != Py_None) {
            PyObject *task = PyObject_CallOneArg(current_task, loop);
            Py_DECREF(loop);
            if (task == NULL) {
                return NULL;
            }
            PyObject *id = task == Py_None ? NULL : PyLong_FromVoidPtr(task);
            Py_DECREF(task); /* the loop keeps it */
            if (id != NULL || PyErr_Occurred()) {
                return id;
            }
        }
        else {
            Py_DECREF(loop);
        }
    }
    return PyLong_FromUnsignedLong(PyThread_get_thread_ident());
}

/* Whether this thread or task has a database transaction open; -1 with an error. */
static int
in_transaction(Core *self)
{
    if (self->open == NULL || !PyDict_Check(self->open) || PyDict_GET_SIZE(self->open) == 0) {
        return 0;
    }
    PyObject *key = strand();
    if (key == NULL) {
        return -1;
    }
    int open = PyDict_Contains(self->open, key);
    Py_DECREF(key);
    return open;
}

/* The cell of the calls that are made from where the program is. A new reference. */
static Cell *
find_cell(Core *self, Shape *shape)
{
    PyObject *cell;
    PyCodeObject *code = NULL;
    int lasti = 0;
#ifdef OWN_FRAMES
    Cell *seen = known_cell(shape);
    if (seen != NULL) {
        return (Cell *)Py_NewRef(seen);
    }
#endif
    PyFrameObject *frame = application_frame();
    if (frame != NULL) {
        lasti = PyFrame_GetLasti(frame);
        code = PyFrame_GetCode(frame);
        Py_DECREF(code); /* the frame keeps it */
    }
    else if (PyErr_Occurred()) {
        return NULL;
    }
    if (shape->used) {
        Cell *known = place_of(shape->places, shape->room, code, lasti)->cell;
        if (known != NULL) {
            Py_XDECREF(frame);
            return (Cell *)Py_NewRef(known);
        }
    }
    if (self->places >= PLACES) {
        PyObject *channel = PyLong_FromLongLong(shape->channel);
        cell = channel == NULL ? NULL : PyObject_CallMethodOneArg((PyObject *)self, s__other_cell, channel);
        Py_XDECREF(channel);
    }
    else {
        if (frame == NULL) {
            frame = PyThreadState_GetFrame(PyThreadState_Get());
        }
        cell = PyObject_CallMethodObjArgs((PyObject *)self, s__cell_at, shape, frame == NULL ? Py_None : (PyObject *)frame,
                                          NULL);
        if (cell != NULL && Py_IS_TYPE(cell, &CellType)) {
            self->places++;
            if (remember_place(shape, code, lasti, (Cell *)cell) < 0) {
                Py_CLEAR(cell);
            }
        }
    }
    Py_XDECREF(frame);
    if (cell != NULL && !Py_IS_TYPE(cell, &CellType)) {
        PyErr_SetString(PyExc_TypeError, "not a cell of the accelerator");
        Py_CLEAR(cell);
    }
    return (Cell *)cell;
}

/* As `distinct.Distinct.add`, and what it means for the cell. */
static void
count_distinct(Core *self, int64_t *cell, int64_t index, int64_t params)
{
    uint64_t pair = (uint64_t)params * distinct_factor + (uint64_t)index * distinct_cell_factor, *seen = self->seen;
    pair = pair ? pair : 1;
    if (seen == NULL || self->seen_used * 4 > (INT64_C(3) << self->seen_bits)) {
        int bits = seen == NULL ? FIRST_BITS : self->seen_bits + 1;
        uint64_t *larger = PyMem_RawCalloc((size_t)1 << bits, sizeof *larger), last = (UINT64_C(1) << bits) - 1;
        if (larger == NULL) {
            cell[C_CAPPED] = 1;
            return;
        }
        for (int64_t from = 0; seen != NULL && from < INT64_C(1) << self->seen_bits; from++) {
            if (seen[from]) {
                uint64_t to = seen[from] >> (64 - bits);
                while (larger[to]) {
                    to = (to + 1) & last;
                }
                larger[to] = seen[from];
            }
        }
        PyMem_RawFree(seen);
        self->seen = seen = larger;
        self->seen_bits = bits;
    }
    uint64_t at = pair >> (64 - self->seen_bits), last = (UINT64_C(1) << self->seen_bits) - 1;
    while (seen[at] && seen[at] != pair) {
        at = (at + 1) & last;
    }
    if (seen[at]) {
        return;
    }
    if (cell[C_DISTINCT] >= DISTINCT_PER_CELL || self->seen_used >= DISTINCT_TOTAL) {
        cell[C_CAPPED] = 1;
        return;
    }
    seen[at] = pair;
    self->seen_used++;
    cell[C_DISTINCT]++;
}

static void
attribute(Core *self, int64_t now)
{
    self->words[self->channels_at + self->top] += now - self->last;
    self->last = now;
}

/* Whether a call that begins now is recorded: not inside another one that is, nor in one of RQ's own phases. -1 with an
   error. */
static int
is_recorded(Core *self)
{
    PyObject *outer = NULL;
    if (PyContextVar_Get(inside, NULL, &outer) < 0) {
        return -1;
    }
    bool nested = Py_IS_TYPE(outer, &CallType) && !((Call *)outer)->ended && ((Call *)outer)->recorder == self;
    Py_DECREF(outer);
    return !nested && !self->silent && self->words != NULL;
}

/* A call that is recorded begins. NULL, maybe with an error that is not ours: it could not be. */
static Call *
begin_call(Core *self, PyObject *known_shape, int64_t params, int64_t flags)
{
    Shape *shape = (Shape *)Py_NewRef(known_shape);
    Cell *cell = NULL;
    Call *call = NULL;
    if (!Py_IS_TYPE(shape, &ShapeType) || shape->generation != self->generation) {
        PyObject *identity = PyObject_GetAttrString((PyObject *)shape, "identity");
        Py_SETREF(shape, identity == NULL
                             ? NULL
                             : (Shape *)PyObject_CallMethodOneArg((PyObject *)self, s__intern, identity));
        Py_XDECREF(identity);
        if (shape == NULL || !Py_IS_TYPE(shape, &ShapeType)) {
            goto failed;
        }
    }
    cell = find_cell(self, shape);
    if (cell == NULL) {
        goto failed;
    }
    int64_t thread = thread_number(self);
    int open = thread < 0 ? -1 : in_transaction(self);
    if (open < 0) {
        goto failed;
    }
    flags |= open ? IN_TRANSACTION : 0;
    call = PyObject_GC_New(Call, &CallType);
    if (call == NULL) {
        goto failed;
    }
    call->recorder = (Core *)Py_NewRef(self);
    call->cell = (Cell *)Py_NewRef(cell);
    call->generation = Py_NewRef(self->generation);
    call->params = params;
    call->thread = thread;
    call->flags = flags;
    call->start = call->cpu = 0;
    call->slot = -1;
    call->ended = 0;
    PyObject_GC_Track(call);
    if (!(flags & PASSTHROUGH)) {
        PyObject *token = PyContextVar_Set(inside, (PyObject *)call);
        if (token == NULL) {
            goto failed;
        }
        Py_DECREF(token);
    }
    if (read_clock(self->clock, &call->start) < 0) {
        goto failed;
    }
    int64_t *words = cell_words(cell), now = call->start;
    if (words == NULL) { /* reset meanwhile, by another thread */
        goto failed;
    }
    /* Nothing fails from here on, and nobody comes between. */
    if (params) {
        count_distinct(self, words, cell->index, params);
    }
    if (self->calls_in_flight) {
        flags |= CONCURRENT;
    }
    cell->begun++;
    if (cell->begun <= CPU_EVERY || cell->begun % CPU_EVERY == 0) {
        flags |= CPU;
    }
    call->flags = flags;
    if (!(flags & PASSTHROUGH)) {
        self->calls_in_flight++;
    }
    if (self->busy) {
        attribute(self, now);
        if (cell->channel < self->top) {
            self->top = cell->channel;
        }
    }
    else {
        self->top = cell->channel;
        self->last = now;
    }
    self->busy++;
    self->flight[cell->channel]++;
    if (self->free_slots) {
        call->slot = self->slots[--self->free_slots];
        int64_t *slot = self->words + FLIGHTS_AT / WORD + call->slot * FLIGHT_WORDS;
        slot[1] = now;
        slot[2] = thread;
        slot[3] = params;
        __atomic_store_n(slot, cell->index + 1, __ATOMIC_RELEASE); /* last: that something is in flight */
    }
    Py_DECREF(shape);
    Py_DECREF(cell);
    if (flags & CPU && read_clock(self->thread_clock, &call->cpu) < 0) {
        PyErr_Clear();
    }
    return call;

failed:
    Py_XDECREF(shape);
    Py_XDECREF(cell);
    Py_XDECREF(call);
    PyObject *error = take_error();
    Py_XDECREF(PyContextVar_Set(inside, Py_None));
    PyErr_Clear();
    if (error != NULL) {
        put_error(error);
        swallow();
    }
    return NULL;
}

static PyObject *
core_begin(Core *self, PyObject *const *args, Py_ssize_t given, PyObject *keywords)
{
    PyObject *const names[] = {NULL, s_params, s_flags, s_passthrough};
    PyObject *places[4] = {NULL};
    if (given != 1) {
        PyErr_SetString(PyExc_TypeError, "begin() takes a shape and keyword arguments");
        return NULL;
    }
    if (arguments("begin", places, names, 4, args, given, keywords) < 0) {
        return NULL;
    }
    int recorded = is_recorded(self);
    if (recorded > 0) {
        int64_t params = 0, flags = number(places[2], 0);
        if (places[1] != NULL) {
            params = (int64_t)(PyLong_AsUnsignedLongLongMask(places[1]) & INT64_MAX);
        }
        int passthrough = places[3] == NULL || PyErr_Occurred() ? 0 : PyObject_IsTrue(places[3]);
        flags |= passthrough > 0 ? PASSTHROUGH : 0;
        Call *call = PyErr_Occurred() ? NULL : begin_call(self, places[0], params, flags);
        if (call != NULL) {
            return (PyObject *)call;
        }
    }
    if (PyErr_Occurred() && swallow() < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* ------------------------------------------------------------------------------------------------------ a call's end */

/* The word that counts a keyed fact of the cell, 0 when there is none; -1 with an error that is not ours. */
static int64_t
tally_at(Cell *cell, int64_t kind, PyObject *fact)
{
    PyObject *arguments[] = {(PyObject *)cell->recorder, PyLong_FromLongLong(cell->index), PyLong_FromLongLong(kind),
                             fact};
    PyObject *answer = arguments[1] == NULL || arguments[2] == NULL
                           ? NULL
                           : PyObject_VectorcallMethod(s__tally_at, arguments, 4, NULL);
    Py_XDECREF(arguments[1]);
    Py_XDECREF(arguments[2]);
    int64_t at = answer == NULL ? 0 : PyLong_AsLongLong(answer);
    Py_XDECREF(answer);
    if (PyErr_Occurred()) {
        return swallow();
    }
    return at > 0 && at < SIZE / WORD ? at : 0;
}

static void
count_flags(Call *call, int64_t *cell, int64_t flags, int64_t duration, int64_t cpu_now)
{
    Core *self = call->recorder;
    if (flags & CPU) {
        int64_t cpu = cpu_now - call->cpu;
        /* With another call in flight in between, the thread's CPU is not this call's alone (asyncio). */
        if (!(flags & CONCURRENT) && !self->calls_in_flight && cpu >= 0) {
            int64_t *first = cell + (call->cell->begun <= CPU_EVERY ? C_CPU_FIRST : C_CPU_SAMPLED);
            first[0] += cpu < duration ? cpu : duration;
            first[1]++;
        }
    }
    cell[C_IN_TRANSACTION] += (flags & IN_TRANSACTION) != 0;
    cell[C_CONCURRENT] += (flags & CONCURRENT) != 0;
    cell[C_NO_TIMEOUT] += (flags & NO_TIMEOUT) != 0;
    cell[C_BATCHED] += (flags & BATCHED) != 0;
    cell[C_NEW_CONNECTIONS] += (flags & NEW_CONNECTION) != 0;
    cell[C_IDEMPOTENCY] += (flags & IDEMPOTENCY_KEY) != 0;
}

typedef struct {
    int64_t rows, sent, received, status, items, flags, blocked_ns; /* rows: -1 when they are not known */
} Facts;

/* The call is over. -1 with an error that is not ours; the call is counted all the same. */
static int
end_call(Call *call, PyObject *error, const Facts *facts)
{
    Core *self = call->recorder;
    Cell *cell = call->cell;
    if (self == NULL || cell == NULL || call->ended) {
        return 0;
    }
    int64_t now, cpu_now = 0, error_at = 0, status_at = 0, status = facts->status;
    if (read_clock(self->clock, &now) < 0) {
        return swallow();
    }
    if (call->ended) { /* by another thread, while a clock in Python ran */
        return 0;
    }
    call->ended = 1;
    int64_t flags = facts->flags | call->flags;
    bool raised = false; /* something that is not ours */
    if (!(flags & PASSTHROUGH)) {
        PyObject *token = PyContextVar_Set(inside, Py_None);
        if (token == NULL) {
            PyErr_Clear();
        }
        Py_XDECREF(token);
    }
    if (call->generation != self->generation) {
        return 0;
    }
    Py_INCREF(call); /* who holds it may let it go while Python code runs */
    if (flags & CPU && read_clock(self->thread_clock, &cpu_now) < 0) {
        PyErr_Clear();
    }
    if (error != NULL) {
        if (cell->error_at && cell->error_type == (PyObject *)Py_TYPE(error)) {
            error_at = cell->error_at;
        }
        else if ((error_at = tally_at(cell, TALLY_ERROR, error)) > 0) {
            cell->error_at = 0; /* letting go of a type may run Python */
            Py_XSETREF(cell->error_type, Py_NewRef(Py_TYPE(error)));
            cell->error_at = error_at;
        }
        raised = error_at < 0;
    }
    if (status) {
        if (cell->status_at && cell->status == status) {
            status_at = cell->status_at;
        }
        else if (!raised) {
            PyObject *fact = PyLong_FromLongLong(status);
            status_at = fact == NULL ? swallow() : tally_at(cell, TALLY_STATUS, fact);
            Py_XDECREF(fact);
            if (status_at > 0) {
                cell->status = status;
                cell->status_at = status_at;
            }
        }
        raised = raised || status_at < 0;
    }
    int64_t *words = cell_words(cell);
    if (words == NULL) { /* reset meanwhile, by another thread */
        goto done;
    }
    /* Nothing fails from here on, and nobody comes between. */
    int64_t duration = now > call->start ? now - call->start : 0;
    attribute(self, now);
    self->busy--;
    self->flight[cell->channel]--;
    if (self->busy && !self->flight[self->top]) {
        for (self->top = 0; self->top < channels - 1 && !self->flight[self->top]; self->top++) {
        }
    }
    if (!(flags & PASSTHROUGH)) {
        self->calls_in_flight--;
    }
    words[C_TOTAL] += duration;
    words[C_LAST] = now;
    if (!words[C_COUNT]) {
        words[C_FIRST] = call->start;
        words[C_MIN] = words[C_MAX] = duration;
    }
    else if (duration > words[C_MAX]) {
        words[C_MAX] = duration;
    }
    else if (duration < words[C_MIN]) {
        words[C_MIN] = duration;
    }
    if (flags & COUNTED) {
        count_flags(call, words, flags, duration, cpu_now);
    }
    if (facts->rows >= 0 || facts->sent || facts->received || facts->items || facts->blocked_ns) {
        add_facts(words, facts->rows, facts->sent, facts->received, facts->items,
                  facts->blocked_ns < duration ? facts->blocked_ns : duration);
    }
    words[C_ERRORS] += error != NULL;
    if (error_at > 0) {
        self->words[error_at]++;
    }
    if (status_at > 0) {
        self->words[status_at]++;
    }
    __atomic_store_n(&words[C_COUNT], words[C_COUNT] + 1, __ATOMIC_RELEASE);
    if (call->slot >= 0) {
        __atomic_store_n(self->words + FLIGHTS_AT / WORD + call->slot * FLIGHT_WORDS, 0, __ATOMIC_RELEASE);
        self->slots[self->free_slots++] = call->slot;
    }
    if (self->spans < SPANS) {
        int64_t *span = self->words + SPANS_AT / WORD + self->spans * SPAN_WORDS;
        span[0] = cell->index;
        span[1] = call->start;
        span[2] = duration;
        span[3] = call->thread << 8 | (error != NULL ? SPAN_ERROR : 0) | (flags & IN_TRANSACTION ? SPAN_IN_TRANSACTION : 0);
        span[4] = call->params;
        span[5] = facts->rows + 1;
        __atomic_store_n(&self->words[H_SPANS], ++self->spans, __ATOMIC_RELEASE);
    }
done:
    Py_DECREF(call);
    return raised ? -1 : 0;
}

static PyObject *
call_end(Call *call, PyObject *const *args, Py_ssize_t given, PyObject *keywords)
{
    PyObject *const names[] = {s_error, s_rows, s_sent, s_received, s_status, s_items, s_flags, s_blocked_ns};
    PyObject *places[8] = {NULL};
    if (arguments("end", places, names, 8, args, given, keywords) < 0) {
        return NULL;
    }
    Facts facts = {number(places[1], -1), number(places[2], 0), number(places[3], 0), number(places[4], 0),
                   number(places[5], 0), number(places[6], 0),  number(places[7], 0)};
    facts.rows = facts.rows < 0 ? -1 : facts.rows;
    if (end_call(call, places[0] == Py_None ? NULL : places[0], &facts) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* Calls inside this one are recorded from now on. -1 with an error. */
static int
let_through(Call *call)
{
    Core *self = call->recorder;
    if (self == NULL || call->ended || call->flags & PASSTHROUGH || call->generation != self->generation) {
        return 0;
    }
    call->flags |= PASSTHROUGH;
    self->calls_in_flight--;
    PyObject *outer;
    if (PyContextVar_Get(inside, NULL, &outer) < 0) {
        return -1;
    }
    Py_DECREF(outer);
    if (outer == (PyObject *)call) {
        PyObject *token = PyContextVar_Set(inside, Py_None);
        if (token == NULL) {
            return -1;
        }
        Py_DECREF(token);
    }
    return 0;
}

static PyObject *
call_let_through(Call *call, PyObject *Py_UNUSED(none))
{
    return let_through(call) < 0 ? NULL : Py_NewRef(Py_None);
}

static int
call_traverse(Call *self, visitproc visit, void *arg)
{
    Py_VISIT(self->recorder);
    Py_VISIT(self->cell);
    Py_VISIT(self->generation);
    return 0;
}

static int
call_clear(Call *self)
{
    Py_CLEAR(self->recorder);
    Py_CLEAR(self->cell);
    Py_CLEAR(self->generation);
    return 0;
}

static void
call_dealloc(Call *self)
{
    PyObject_GC_UnTrack(self);
    call_clear(self);
    PyObject_GC_Del(self);
}

static PyMemberDef call_members[] = {
    {"cell", T_OBJECT, offsetof(Call, cell), READONLY, NULL},
    {"cpu", T_LONGLONG, offsetof(Call, cpu), 0, NULL},
    {"ended", T_BOOL, offsetof(Call, ended), READONLY, NULL},
    {"flags", T_LONGLONG, offsetof(Call, flags), 0, NULL},
    {"generation", T_OBJECT, offsetof(Call, generation), READONLY, NULL},
    {"params", T_LONGLONG, offsetof(Call, params), READONLY, NULL},
    {"recorder", T_OBJECT, offsetof(Call, recorder), READONLY, NULL},
    {"slot", T_LONGLONG, offsetof(Call, slot), READONLY, NULL},
    {"start", T_LONGLONG, offsetof(Call, start), 0, NULL},
    {"thread", T_LONGLONG, offsetof(Call, thread), READONLY, NULL},
    {NULL},
};

static PyMethodDef call_methods[] = {
    {"end", (PyCFunction)(void (*)(void))call_end, METH_FASTCALL | METH_KEYWORDS, "The call is over. Never raises."},
    {"let_through", (PyCFunction)call_let_through, METH_NOARGS, "Calls inside this one are recorded from now on."},
    {NULL},
};

static PyTypeObject CallType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "jobdoctor.capture._accelerator.Call",
    .tp_basicsize = sizeof(Call),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_doc = "One call in progress.",
    .tp_traverse = (traverseproc)call_traverse,
    .tp_clear = (inquiry)call_clear,
    .tp_dealloc = (destructor)call_dealloc,
    .tp_methods = call_methods,
    .tp_members = call_members,
};

/* ------------------------------------------------------------------------------------------- what the probes remember */

/* A statement's text, or a command on keys of one template, with its shape. */
typedef struct {
    PyObject_HEAD
    PyObject *shape;
    char plain, steady;
    long long first, step;
} Known;

/* A driver's connection. `reference` is a weak one to it, `dialect` the ORM's that speaks through it. */
typedef struct {
    PyObject_HEAD
    PyObject *reference, *database, *dialect, *orm, *generation;
} Session;

/* A database or a server as one library reaches it, with all that is known of what it is sent. */
typedef struct {
    PyObject_HEAD
    PyObject *reference, *known, *pipelines;
    char counts; /* its cursors know how many rows a statement gave when it returns */
} Server;

#define OBJECTS_OF(type, ...)                                                                                          \
    static PyObject **type##_objects(void *self, size_t at)                                                            \
    {                                                                                                                  \
        static const size_t offsets[] = {__VA_ARGS__};                                                                 \
        return at < sizeof offsets / sizeof *offsets ? (PyObject **)((char *)self + offsets[at]) : NULL;               \
    }                                                                                                                  \
    static int type##_traverse(PyObject *self, visitproc visit, void *arg)                                             \
    {                                                                                                                  \
        PyObject **object;                                                                                             \
        for (size_t at = 0; (object = type##_objects(self, at)) != NULL; at++) {                                       \
            Py_VISIT(*object);                                                                                         \
        }                                                                                                              \
        return 0;                                                                                                      \
    }                                                                                                                  \
    static int type##_clear(PyObject *self)                                                                            \
    {                                                                                                                  \
        PyObject **object;                                                                                             \
        for (size_t at = 0; (object = type##_objects(self, at)) != NULL; at++) {                                       \
            Py_CLEAR(*object);                                                                                         \
        }                                                                                                              \
        return 0;                                                                                                      \
    }                                                                                                                  \
    static void type##_dealloc(PyObject *self)                                                                         \
    {                                                                                                                  \
        PyObject_GC_UnTrack(self);                                                                                     \
        type##_clear(self);                                                                                            \
        Py_TYPE(self)->tp_free(self);                                                                                  \
    }

#define REMEMBERED(type, name, text)                                                                                   \
    static PyTypeObject name##Type = {                                                                                 \
        PyVarObject_HEAD_INIT(NULL, 0).tp_name = "jobdoctor.capture._accelerator." #name,                              \
        .tp_basicsize = sizeof(name),                                                                                  \
        .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,                                     \
        .tp_doc = text,                                                                                                \
        .tp_new = PyType_GenericNew,                                                                                   \
        .tp_traverse = type##_traverse,                                                                                \
        .tp_clear = type##_clear,                                                                                      \
        .tp_dealloc = type##_dealloc,                                                                                  \
        .tp_free = PyObject_GC_Del,                                                                                    \
        .tp_members = type##_members,                                                                                  \
    };

OBJECTS_OF(known, offsetof(Known, shape))
static PyMemberDef known_members[] = {
    {"shape", T_OBJECT, offsetof(Known, shape), 0, NULL},     {"plain", T_BOOL, offsetof(Known, plain), 0, NULL},
    {"steady", T_BOOL, offsetof(Known, steady), 0, NULL},     {"first", T_LONGLONG, offsetof(Known, first), 0, NULL},
    {"step", T_LONGLONG, offsetof(Known, step), 0, NULL},     {NULL},
};
REMEMBERED(known, Known, "What is known of a statement or a command.")

OBJECTS_OF(session, offsetof(Session, reference), offsetof(Session, database), offsetof(Session, dialect),
           offsetof(Session, orm), offsetof(Session, generation))
static PyMemberDef session_members[] = {
    {"reference", T_OBJECT, offsetof(Session, reference), 0, NULL},
    {"database", T_OBJECT, offsetof(Session, database), 0, NULL},
    {"dialect", T_OBJECT, offsetof(Session, dialect), 0, NULL},
    {"orm", T_OBJECT, offsetof(Session, orm), 0, NULL},
    {"generation", T_OBJECT, offsetof(Session, generation), 0, NULL},
    {NULL},
};
REMEMBERED(session, Session, "What is remembered of a driver's connection.")

OBJECTS_OF(server, offsetof(Server, reference), offsetof(Server, known), offsetof(Server, pipelines))
static PyMemberDef server_members[] = {
    {"reference", T_OBJECT, offsetof(Server, reference), 0, NULL},
    {"known", T_OBJECT, offsetof(Server, known), 0, NULL},
    {"pipelines", T_OBJECT, offsetof(Server, pipelines), 0, NULL},
    {"counts", T_BOOL, offsetof(Server, counts), 0, NULL},
    {NULL},
};
REMEMBERED(server, Server, "What is remembered of a database or a server.")

/* A shape as it is in this execution, in the place of one that may be of another; a new reference. NULL, maybe with an
   error. */
static PyObject *
renewed(Core *core, PyObject *shape)
{
    if (shape == NULL || !Py_IS_TYPE(shape, &ShapeType)) {
        return NULL;
    }
    if (((Shape *)shape)->generation == core->generation) {
        return Py_NewRef(shape);
    }
    PyObject *identity = Py_XNewRef(((Shape *)shape)->identity);
    PyObject *found = identity == NULL ? NULL : PyObject_CallMethodOneArg((PyObject *)core, s__intern, identity);
    Py_XDECREF(identity);
    if (found != NULL && (!Py_IS_TYPE(found, &ShapeType) || ((Shape *)found)->generation != core->generation)) {
        Py_CLEAR(found);
    }
    return found;
}

/* What is known, made good for this execution; takes the reference, and lets go of it where that cannot be done. */
static Known *
good(Core *core, PyObject *found)
{
    Known *known = (Known *)found;
    PyObject *shape = NULL;
    if (found != NULL && PyObject_TypeCheck(found, &KnownType)) {
        shape = renewed(core, known->shape);
    }
    if (shape == NULL) {
        Py_XDECREF(found);
        return NULL;
    }
    Py_XSETREF(known->shape, shape);
    return known;
}

/* As `renewed`, of one that a dict has. */
static PyObject *
renewed_in(Core *core, PyObject *dict, PyObject *key)
{
    PyObject *old = Py_XNewRef(PyDict_GetItemWithError(dict, key)), *shape = renewed(core, old);
    if (shape != NULL && shape != old && PyDict_SetItem(dict, key, shape) < 0) {
        Py_CLEAR(shape);
    }
    Py_XDECREF(old);
    return shape;
}

/* Whether a weak reference is one to the object. */
static bool
refers_to(PyObject *reference, PyObject *object)
{
    if (reference == NULL || !PyWeakref_CheckRef(reference)) {
        return false;
    }
#if PY_VERSION_HEX >= 0x030D0000
    PyObject *target = NULL;
    bool same = PyWeakref_GetRef(reference, &target) > 0 && target == object;
    Py_XDECREF(target);
    return same;
#else
    return PyWeakref_GET_OBJECT(reference) == object;
#endif
}

/* An object of a dict by another one's identity, borrowed; NULL, maybe with an error. */
static PyObject *
by_identity(PyObject *dict, PyObject *object)
{
    PyObject *key = PyLong_FromVoidPtr(object);
    PyObject *found = key == NULL ? NULL : PyDict_GetItemWithError(dict, key);
    Py_XDECREF(key);
    return found;
}

/* ---------------------------------------------------------------------------------------------------------- wrappers */

/* What a probe puts in the place of a method. The most frequent calls are recorded here from end to end; all that is out
   of the ordinary is left to the wrapper in Python, `rest`, which does the same for every call. */
typedef struct Wrapper Wrapper;
typedef PyObject *(*Record)(Wrapper *, Core *, PyObject *const *, size_t, PyObject *);

struct Wrapper {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    Record record;
    PyObject *original, *rest, *dict;
    PyObject *sessions; /* by a connection's identity; a Redis wrapper's servers, by that of their pools */
    PyObject *open, *relationship, *settle, *fail;
    PyObject *recent; /* the session, or the server, that was used last */
    PyObject *weakrefs;
};

static PyObject *recorder_names; /* of the module `recorder` */

OBJECTS_OF(wrapper, offsetof(Wrapper, original), offsetof(Wrapper, rest), offsetof(Wrapper, dict),
           offsetof(Wrapper, sessions), offsetof(Wrapper, open), offsetof(Wrapper, relationship),
           offsetof(Wrapper, settle), offsetof(Wrapper, fail), offsetof(Wrapper, recent))

static PyObject *
wrapper_call(PyObject *callable, PyObject *const *args, size_t count, PyObject *keywords)
{
    Wrapper *self = (Wrapper *)callable;
    PyObject *current = PyDict_GetItemWithError(recorder_names, s_current); /* borrowed */
    if (current == Py_None || current == NULL) {
        PyErr_Clear();
        return PyObject_Vectorcall(self->original, args, count, keywords);
    }
    if (!PyObject_TypeCheck(current, &CoreType)) {
        return PyObject_Vectorcall(self->rest, args, count, keywords);
    }
    Core *core = (Core *)current;
    int recorded = is_recorded(core);
    if (recorded <= 0) {
        PyErr_Clear();
        return PyObject_Vectorcall(self->original, args, count, keywords);
    }
    Py_INCREF(core);
    PyObject *result = self->record(self, core, args, count, keywords);
    Py_DECREF(core);
    return result;
}

/* The rest does it, unless something happened that is not ours. */
static PyObject *
leave_it(Wrapper *self, PyObject *const *args, size_t count, PyObject *keywords)
{
    if (PyErr_Occurred() && swallow() < 0) {
        return NULL;
    }
    return PyObject_Vectorcall(self->rest, args, count, keywords);
}

/* An exception of the call goes on; one that came up meanwhile and is not ours, in its place. */
static PyObject *
go_on(PyObject *raised)
{
    if (PyErr_Occurred() && swallow() < 0) {
        PyObject *later = take_error();
        if (later != raised) {
            PyException_SetContext(later, raised); /* takes the reference */
        }
        put_error(later);
        return NULL;
    }
    put_error(raised);
    return NULL;
}

/* The hash of a call's parameters, as calls have it; -1 with an error, or when there is no short way to it. */
static int64_t
hash_of(PyObject *parameters)
{
    Py_hash_t hash = PyObject_Hash(parameters);
    if (hash == -1) {
        return -1;
    }
    return (int64_t)(hash ? hash : 1) & INT64_MAX;
}

/* -- statements */

/* The session of a driver's connection, a new reference; NULL, maybe with an error, when it is to be made. */
static Session *
session_of(Wrapper *self, PyObject *connection)
{
    Session *recent = (Session *)self->recent;
    if (recent != NULL && refers_to(recent->reference, connection)) {
        return (Session *)Py_NewRef(recent);
    }
    PyObject *found = by_identity(self->sessions, connection);
    if (found == NULL || !PyObject_TypeCheck(found, &SessionType) ||
        !refers_to(((Session *)found)->reference, connection)) {
        return NULL;
    }
    Py_INCREF(found);
    PyObject *old = self->recent;
    self->recent = Py_NewRef(found);
    Py_XDECREF(old);
    return (Session *)found;
}

/* Attributes of psycopg's cursors are properties in Python around a slot: the slot, where there is one. */
static PyObject *
attribute_or(PyObject *cursor, PyObject *slot, PyObject *name)
{
    PyObject *found = PyDict_GetItemWithError(cursor_types, (PyObject *)Py_TYPE(cursor));
    if (found == NULL) {
        if (PyErr_Occurred()) {
            return NULL;
        }
        PyObject *behind = _PyType_Lookup(Py_TYPE(cursor), s__conn), *rows = _PyType_Lookup(Py_TYPE(cursor), s__rowcount);
        PyObject *module = PyObject_GetAttrString((PyObject *)Py_TYPE(cursor), "__module__");
        bool known = module != NULL && PyUnicode_Check(module) && PyUnicode_Find(module, s_psycopg, 0, 8, 1) == 0 &&
                     behind != NULL && Py_IS_TYPE(behind, &PyMemberDescr_Type) && rows != NULL &&
                     Py_IS_TYPE(rows, &PyMemberDescr_Type);
        Py_XDECREF(module);
        PyErr_Clear();
        found = known ? Py_True : Py_False;
        if (PyDict_GET_SIZE(cursor_types) < 100 &&
            PyDict_SetItem(cursor_types, (PyObject *)Py_TYPE(cursor), found) < 0) {
            return NULL;
        }
    }
    return PyObject_GetAttr(cursor, found == Py_True ? slot : name);
}

/* What is known of a statement of which nothing is out of the ordinary, a new reference; NULL, maybe with an error. */
static Known *
known_statement(Wrapper *self, Core *core, Server *database, PyObject *statement)
{
    PyObject *related = NULL, *found;
    if (!PyUnicode_CheckExact(statement) || database->known == NULL || !PyDict_CheckExact(database->known) ||
        PyContextVar_Get(self->relationship, NULL, &related) < 0) {
        return NULL;
    }
    if (related != NULL && PyUnicode_Check(related) && PyUnicode_GET_LENGTH(related) == 0) {
        found = Py_XNewRef(PyDict_GetItemWithError(database->known, statement));
    }
    else {
        PyObject *key = related == NULL ? NULL : PyTuple_Pack(2, statement, related);
        found = key == NULL ? NULL : Py_XNewRef(PyDict_GetItemWithError(database->known, key));
        Py_XDECREF(key);
    }
    Py_XDECREF(related);
    if (found != NULL && (!PyObject_TypeCheck(found, &KnownType) || !((Known *)found)->plain)) {
        Py_CLEAR(found);
    }
    return good(core, found);
}

/* The hash of a statement's parameters, 0 for none; -1 as `hash_of`. */
static int64_t
statement_parameters(PyObject *parameters)
{
    if (parameters == NULL || parameters == Py_None) {
        return 0;
    }
    if (PyTuple_CheckExact(parameters)) {
        return PyTuple_GET_SIZE(parameters) ? hash_of(parameters) : 0;
    }
    if (!PyDict_CheckExact(parameters)) {
        return -1;
    }
    if (PyDict_GET_SIZE(parameters) == 0) {
        return 0;
    }
    PyObject *values = PyTuple_New(PyDict_GET_SIZE(parameters)), *value;
    if (values == NULL) {
        return -1;
    }
    Py_ssize_t position = 0, at = 0;
    while (at < PyTuple_GET_SIZE(values) && PyDict_Next(parameters, &position, NULL, &value)) {
        PyTuple_SET_ITEM(values, at++, Py_NewRef(value));
    }
    int64_t hash = hash_of(values);
    Py_DECREF(values);
    return hash;
}

/* A statement that a cursor executes, through a dialect or by itself: what `sqlalchemy_dialect` and `psycopg_driver` do,
   when its text and its connection were seen before in this execution. */
static PyObject *
record_statement(Wrapper *self, Core *core, PyObject *const *args, size_t count, PyObject *keywords, bool dialect)
{
    Py_ssize_t given = PyVectorcall_NARGS(count);
    PyObject *connection = NULL, *parameters;
    Session *session = NULL;
    Server *database = NULL;
    Known *known = NULL;
    if (keywords != NULL || given < (dialect ? 4 : 2) || given > (dialect ? 5 : 3)) {
        return leave_it(self, args, count, keywords);
    }
    PyObject *cursor = args[dialect], *statement = args[dialect + 1];
    parameters = given > dialect + 2 ? args[dialect + 2] : NULL;
    connection = attribute_or(cursor, s__conn, s_connection);
    session = connection == NULL ? NULL : session_of(self, connection);
    if (session == NULL || session->generation != core->generation || (dialect && session->dialect != args[0])) {
        goto leave;
    }
    database = (Server *)Py_XNewRef(dialect ? session->orm : session->database);
    if (database == NULL || !PyObject_TypeCheck((PyObject *)database, &ServerType) || !database->counts) {
        goto leave;
    }
    known = known_statement(self, core, database, statement);
    int64_t params = known == NULL ? -1 : statement_parameters(parameters);
    if (params < 0) {
        goto leave;
    }
    Call *call = begin_call(core, known->shape, params, 0);
    Py_DECREF(session);
    Py_DECREF(database);
    if (call == NULL) {
        Py_DECREF(connection);
        Py_DECREF(known);
        return PyErr_Occurred() ? NULL : PyObject_Vectorcall(self->original, args, count, keywords);
    }
    PyObject *result = PyObject_Vectorcall(self->original, args, count, keywords);
    if (result == NULL) {
        PyObject *raised = take_error();
        PyObject *done = PyObject_CallFunction(self->fail, "OO(OOi)OO", core, args[0], call, known, 0, cursor, raised);
        Py_XDECREF(done);
        go_on(raised);
    }
    else {
        Facts facts = {.rows = -1};
        PyObject *rows = attribute_or(cursor, s__rowcount, s_rowcount);
        if (rows != NULL && PyLong_CheckExact(rows)) {
            facts.rows = number(rows, -1);
            facts.rows = facts.rows < 0 ? -1 : facts.rows;
        }
        Py_XDECREF(rows);
        PyObject *raised = PyErr_Occurred() && swallow() < 0 ? take_error() : NULL; /* not ours: it goes on, counted */
        bool failed = end_call(call, NULL, &facts) < 0;
        if (raised != NULL) {
            PyErr_Clear();
            put_error(raised);
            failed = true;
        }
        PyObject *open = failed ? NULL : by_identity(self->open, connection);
        if (!failed && (!known->steady || open != core->generation)) {
            PyObject *done = PyErr_Occurred() ? NULL : PyObject_CallFunctionObjArgs(self->settle, core, args[0], cursor, NULL);
            Py_XDECREF(done);
            failed = done == NULL && swallow() < 0;
        }
        if (failed) {
            Py_CLEAR(result);
        }
    }
    Py_DECREF(call);
    Py_DECREF(known);
    Py_DECREF(connection);
    return result;

leave:
    Py_XDECREF(connection);
    Py_XDECREF(session);
    Py_XDECREF(database);
    Py_XDECREF(known);
    return leave_it(self, args, count, keywords);
}

static PyObject *
record_dialect(Wrapper *self, Core *core, PyObject *const *args, size_t count, PyObject *keywords)
{
    return record_statement(self, core, args, count, keywords, true);
}

static PyObject *
record_driver(Wrapper *self, Core *core, PyObject *const *args, size_t count, PyObject *keywords)
{
    return record_statement(self, core, args, count, keywords, false);
}

/* -- Redis */

#define LONGEST_KEY 4096
#define PIPELINE_LOOKED_AT 200 /* a longer one is left to the rest */
#define MOST_KINDS 16      /* of commands in one pipeline */

/* A key with a zero for any digit, as `fingerprint.skeleton` has it where no digit stays; NULL, maybe with an error. */
static PyObject *
zeros_of(PyObject *key)
{
    Py_ssize_t length;
    const char *text = PyUnicode_CheckExact(key) ? PyUnicode_AsUTF8AndSize(key, &length) : NULL;
    PyObject *zeros = text == NULL || length > LONGEST_KEY ? NULL : PyBytes_FromStringAndSize(text, length);
    if (zeros != NULL) {
        char *zero = PyBytes_AS_STRING(zeros);
        for (Py_ssize_t at = 0; at < length; at++) {
            zero[at] = zero[at] >= '1' && zero[at] <= '9' ? '0' : zero[at];
        }
    }
    return zeros;
}

/* What is known of a command on a key, a new reference; NULL, maybe with an error. */
static Known *
known_command(Core *core, Server *server, PyObject *command, PyObject *key)
{
    PyObject *zeros = PyUnicode_CheckExact(command) && PyDict_CheckExact(server->known) ? zeros_of(key) : NULL;
    PyObject *pair = zeros == NULL ? NULL : PyTuple_Pack(2, command, zeros);
    PyObject *found = pair == NULL ? NULL : Py_XNewRef(PyDict_GetItemWithError(server->known, pair));
    Py_XDECREF(zeros);
    Py_XDECREF(pair);
    return good(core, found);
}

static int64_t
size_of(PyObject *const *texts, Py_ssize_t count)
{
    int64_t size = 0;
    for (Py_ssize_t at = 0; at < count; at++) {
        if (PyUnicode_CheckExact(texts[at])) {
            size += PyUnicode_GET_LENGTH(texts[at]);
        }
        else if (PyBytes_CheckExact(texts[at])) {
            size += PyBytes_GET_SIZE(texts[at]);
        }
    }
    return size;
}

/* The server of a client, by its pool, a new reference; NULL, maybe with an error. */
static Server *
server_of(Wrapper *self, PyObject *client)
{
    PyObject *pool = PyObject_GetAttr(client, s_connection_pool);
    if (pool == NULL) {
        return NULL;
    }
    Server *server = (Server *)Py_XNewRef(self->recent);
    if (server == NULL || !refers_to(server->reference, pool)) {
        Py_XSETREF(server, (Server *)Py_XNewRef(by_identity(self->sessions, pool)));
        if (server != NULL && (!PyObject_TypeCheck((PyObject *)server, &ServerType) || server->known == NULL ||
                               !refers_to(server->reference, pool))) {
            Py_CLEAR(server);
        }
        if (server != NULL) {
            PyObject *old = self->recent;
            self->recent = Py_NewRef((PyObject *)server);
            Py_XDECREF(old);
        }
    }
    Py_DECREF(pool);
    return server;
}

/* A call that has begun: the original, and the end of it. */
static PyObject *
finish_plainly(Wrapper *self, Call *call, PyObject *const *args, size_t count, PyObject *keywords)
{
    Facts none = {.rows = -1};
    PyObject *result = PyObject_Vectorcall(self->original, args, count, keywords);
    if (result == NULL) {
        PyObject *raised = take_error();
        end_call(call, raised, &none);
        go_on(raised);
    }
    else if (end_call(call, NULL, &none) < 0) {
        Py_CLEAR(result);
    }
    Py_DECREF(call);
    return result;
}

/* What `redis_client` does of a command on one key that is a text, when its like was seen before in this execution. */
static PyObject *
record_command(Wrapper *self, Core *core, PyObject *const *args, size_t count, PyObject *keywords)
{
    Py_ssize_t given = PyVectorcall_NARGS(count);
    Server *server = given < 3 ? NULL : server_of(self, args[0]);
    Known *known = server == NULL ? NULL : known_command(core, server, args[1], args[2]);
    PyObject *rest = known == NULL ? NULL : PyTuple_New(given - 2);
    Py_XDECREF(server);
    if (rest == NULL) {
        Py_XDECREF(known);
        return leave_it(self, args, count, keywords);
    }
    for (Py_ssize_t at = 2; at < given; at++) {
        PyTuple_SET_ITEM(rest, at - 2, Py_NewRef(args[at]));
    }
    int64_t params = hash_of(rest);
    Py_DECREF(rest);
    if (params < 0) {
        Py_DECREF(known);
        return leave_it(self, args, count, keywords);
    }
    Facts facts = {.rows = -1};
    if (known->step && given - 2 - known->first >= 2 * known->step) {
        facts.items = (given - 2 - known->first) / known->step;
    }
    Call *call = begin_call(core, known->shape, params, facts.items ? BATCHED : 0);
    Py_DECREF(known);
    if (call == NULL) {
        return PyErr_Occurred() ? NULL : PyObject_Vectorcall(self->original, args, count, keywords);
    }
    PyObject *result = PyObject_Vectorcall(self->original, args, count, keywords);
    if (result == NULL) {
        PyObject *raised = take_error();
        Facts none = {.rows = -1};
        end_call(call, raised, &none);
        go_on(raised);
    }
    else {
        facts.sent = size_of(args, given);
        facts.received = PyList_CheckExact(result)
                             ? size_of(((PyListObject *)result)->ob_item, PyList_GET_SIZE(result))
                             : size_of(&result, 1);
        if (end_call(call, NULL, &facts) < 0) {
            Py_CLEAR(result);
        }
    }
    Py_DECREF(call);
    return result;
}

/* What `redis_client` does of a pipeline, when commands like its own were sent in one before in this execution. */
static PyObject *
record_pipeline(Wrapper *self, Core *core, PyObject *const *args, size_t count, PyObject *keywords)
{
    Known *kinds[MOST_KINDS];
    Py_ssize_t known = 0, size = 0;
    int64_t sent = 0;
    Server *server = PyVectorcall_NARGS(count) < 1 ? NULL : server_of(self, args[0]);
    PyObject *stack = server == NULL ? NULL : PyObject_GetAttr(args[0], s_command_stack), *shape = NULL;
    bool usual = stack != NULL && PyList_CheckExact(stack) && (size = PyList_GET_SIZE(stack)) > 0 &&
                 size <= PIPELINE_LOOKED_AT && server->pipelines != NULL && PyDict_CheckExact(server->pipelines);
    for (Py_ssize_t at = 0; usual && at < size && at < PyList_GET_SIZE(stack); at++) {
        PyObject *entry = PyList_GET_ITEM(stack, at);
        PyObject *words = PyTuple_CheckExact(entry) && PyTuple_GET_SIZE(entry) ? PyTuple_GET_ITEM(entry, 0) : NULL;
        if (words == NULL || !PyTuple_CheckExact(words) || PyTuple_GET_SIZE(words) < 2) {
            usual = false;
            break;
        }
        Py_INCREF(words);
        sent += size_of(((PyTupleObject *)words)->ob_item, PyTuple_GET_SIZE(words));
        Known *command = known_command(core, server, PyTuple_GET_ITEM(words, 0), PyTuple_GET_ITEM(words, 1));
        Py_DECREF(words);
        Py_ssize_t kind = 0;
        while (kind < known && kinds[kind] != command) {
            kind++;
        }
        if (command == NULL || kind == MOST_KINDS) {
            usual = false;
            Py_XDECREF(command);
        }
        else if (kind == known) {
            kinds[known++] = command;
        }
        else {
            Py_DECREF(command);
        }
    }
    if (usual) {
        PyObject *key = PyTuple_New(known);
        for (Py_ssize_t at = 0; key != NULL && at < known; at++) {
            PyTuple_SET_ITEM(key, at, Py_NewRef((PyObject *)kinds[at]));
        }
        shape = key == NULL ? NULL : renewed_in(core, server->pipelines, key);
        Py_XDECREF(key);
    }
    while (known) {
        Py_DECREF(kinds[--known]);
    }
    Py_XDECREF(stack);
    Py_XDECREF(server);
    if (shape == NULL) {
        return leave_it(self, args, count, keywords);
    }
    Call *call = begin_call(core, shape, 0, BATCHED);
    Py_DECREF(shape);
    if (call == NULL) {
        return PyErr_Occurred() ? NULL : PyObject_Vectorcall(self->original, args, count, keywords);
    }
    int64_t *words = cell_words(call->cell);
    if (words != NULL) {
        add_facts(words, -1, sent, 0, size, 0);
    }
    return finish_plainly(self, call, args, count, keywords);
}

/* -- HTTP */

/* An attribute of an instance's own, borrowed; NULL, and no error, when there is none. */
static PyObject *
own_attribute(PyObject *instance, PyObject *name, bool take)
{
    PyObject *own = PyObject_GenericGetDict(instance, NULL);
    PyObject *found = own == NULL || !PyDict_CheckExact(own) ? NULL : Py_XNewRef(PyDict_GetItemWithError(own, name));
    if (found != NULL && take) {
        PyDict_DelItem(own, name);
    }
    Py_XDECREF(own);
    PyErr_Clear();
    return found;
}

/* What httpx's requests say of themselves: whether they have a timeout and a key, and how long they are; -1 where it is
   to be asked in Python. */
static int
request_facts(PyObject *request, int64_t *flags, int64_t *sent)
{
    int usual = -1;
    PyObject *extensions = PyObject_GetAttr(request, s_extensions);
    PyObject *headers = extensions == NULL ? NULL : PyObject_GetAttr(request, s_headers);
    PyObject *fields = headers == NULL ? NULL : PyObject_GetAttr(headers, s__list);
    if (fields == NULL || !PyDict_CheckExact(extensions) || !PyList_CheckExact(fields)) {
        goto done;
    }
    PyObject *timeouts = PyDict_GetItemWithError(extensions, s_timeout), *value;
    if (timeouts != NULL && !PyDict_CheckExact(timeouts)) {
        goto done;
    }
    *flags = NO_TIMEOUT;
    for (Py_ssize_t position = 0; timeouts != NULL && PyDict_Next(timeouts, &position, NULL, &value);) {
        *flags = value != Py_None ? 0 : *flags;
    }
    for (Py_ssize_t at = 0; at < PyList_GET_SIZE(fields); at++) {
        PyObject *field = PyList_GET_ITEM(fields, at); /* as it was written, in lower case, its content */
        if (!PyTuple_CheckExact(field) || PyTuple_GET_SIZE(field) != 3 || !PyBytes_CheckExact(PyTuple_GET_ITEM(field, 1)) ||
            !PyBytes_CheckExact(PyTuple_GET_ITEM(field, 2))) {
            goto done;
        }
        const char *name = PyBytes_AS_STRING(PyTuple_GET_ITEM(field, 1));
        if (!strcmp(name, "content-length")) {
            const char *digit = PyBytes_AS_STRING(PyTuple_GET_ITEM(field, 2));
            Py_ssize_t digits = PyBytes_GET_SIZE(PyTuple_GET_ITEM(field, 2));
            int64_t length = 0;
            for (Py_ssize_t place = 0; place < digits; place++) {
                if (digit[place] < '0' || digit[place] > '9' || digits > 15) {
                    goto done;
                }
                length = length * 10 + digit[place] - '0';
            }
            *sent = length;
        }
        else if (!strcmp(name, "idempotency-key")) {
            *flags |= IDEMPOTENCY_KEY;
        }
    }
    usual = 0;
done:
    Py_XDECREF(extensions);
    Py_XDECREF(headers);
    Py_XDECREF(fields);
    return usual;
}

/* The shape of a request to a place (scheme, user, host and port) that was seen before, and the hash of its URL; NULL,
   maybe with an error. A new reference. */
static PyObject *
request_shape(Wrapper *self, Core *core, PyObject *request, int64_t *params)
{
    PyObject *shape = NULL, *place = NULL, *path = NULL, *zeros = NULL, *key = NULL, *distinct = NULL;
    PyObject *method = PyObject_GetAttr(request, s_method);
    PyObject *url = method == NULL ? NULL : PyObject_GetAttr(request, s_url);
    PyObject *parts = url == NULL ? NULL : PyObject_GetAttr(url, s__uri_reference);
    if (parts == NULL || !PyTuple_Check(parts) || PyTuple_GET_SIZE(parts) != 7 ||
        (place = PyTuple_GetSlice(parts, 0, 4)) == NULL) {
        goto done;
    }
    PyObject *query = PyTuple_GET_ITEM(parts, 5);
    path = Py_NewRef(PyTuple_GET_ITEM(parts, 4));
    if (!PyUnicode_CheckExact(path) || (query != Py_None && !PyUnicode_CheckExact(query))) {
        goto done;
    }
    if (query != Py_None) {
        Py_SETREF(path, PyUnicode_FromFormat("%U?%U", path, query));
    }
    Server *server = path == NULL ? NULL : (Server *)PyDict_GetItemWithError(self->sessions, place);
    if (server == NULL || !PyObject_TypeCheck((PyObject *)server, &ServerType) || server->known == NULL ||
        !PyDict_CheckExact(server->known)) {
        goto done;
    }
    Py_INCREF(server);
    zeros = zeros_of(path);
    key = zeros == NULL ? NULL : PyTuple_Pack(2, method, zeros);
    shape = key == NULL ? NULL : renewed_in(core, server->known, key);
    Py_DECREF(server);
    distinct = shape == NULL ? NULL : PyTuple_Pack(3, method, place, path);
    *params = distinct == NULL ? -1 : hash_of(distinct);
    if (*params < 0) {
        Py_CLEAR(shape);
    }
done:
    Py_XDECREF(method);
    Py_XDECREF(url);
    Py_XDECREF(parts);
    Py_XDECREF(place);
    Py_XDECREF(path);
    Py_XDECREF(zeros);
    Py_XDECREF(key);
    Py_XDECREF(distinct);
    return shape;
}

/* The head of a response is there: the call goes on until its stream is closed. -1 with an error. */
static int
begin_response(Call *call, PyObject *response)
{
    int done = -1;
    PyObject *extensions = PyObject_GetAttr(response, s_extensions);
    PyObject *connection = extensions == NULL || !PyDict_Check(extensions)
                               ? NULL
                               : Py_XNewRef(PyDict_GetItemWithError(extensions, s_network_stream));
    if (connection != NULL && connection != Py_None) {
        PyObject *seen = own_attribute(connection, s__jobdoctor_seen, false);
        if (seen == NULL) { /* one object as long as it is connected */
            call->flags |= PyObject_SetAttr(connection, s__jobdoctor_seen, Py_True) < 0 ? 0 : NEW_CONNECTION;
        }
        Py_XDECREF(seen);
    }
    PyObject *stream = PyErr_Occurred() ? NULL : PyObject_GetAttr(response, s_stream);
    PyObject *reference = stream == NULL ? NULL : PyWeakref_NewRef(response, NULL);
    PyObject *pair = reference == NULL ? NULL : PyTuple_Pack(2, call, reference);
    if (pair != NULL && PyObject_SetAttr(stream, s__jobdoctor_call, pair) == 0) {
        done = let_through(call);
    }
    Py_XDECREF(extensions);
    Py_XDECREF(connection);
    Py_XDECREF(stream);
    Py_XDECREF(reference);
    Py_XDECREF(pair);
    return done;
}

/* What `httpx_client` does of a request, when its like was sent before in this execution. */
static PyObject *
record_request(Wrapper *self, Core *core, PyObject *const *args, size_t count, PyObject *keywords)
{
    int64_t params = 0, flags = 0, sent = 0;
    PyObject *shape = keywords == NULL && PyVectorcall_NARGS(count) == 2 ? request_shape(self, core, args[1], &params)
                                                                         : NULL;
    if (shape == NULL || request_facts(args[1], &flags, &sent) < 0) {
        Py_XDECREF(shape);
        return leave_it(self, args, count, keywords);
    }
    Call *call = begin_call(core, shape, params, flags);
    Py_DECREF(shape);
    if (call == NULL) {
        return PyErr_Occurred() ? NULL : PyObject_Vectorcall(self->original, args, count, keywords);
    }
    int64_t *words = cell_words(call->cell);
    if (sent && words != NULL) {
        add_facts(words, -1, sent, 0, 0, 0);
    }
    PyObject *result = PyObject_Vectorcall(self->original, args, count, keywords);
    Facts none = {.rows = -1};
    if (result == NULL) {
        PyObject *raised = take_error();
        end_call(call, raised, &none);
        go_on(raised);
    }
    else if (begin_response(call, result) < 0) {
        PyObject *failure = take_error();
        end_call(call, NULL, &none);
        PyErr_Clear();
        if (failure != NULL) {
            put_error(failure);
        }
        if (PyErr_Occurred() && swallow() < 0) {
            Py_CLEAR(result);
        }
    }
    Py_DECREF(call);
    return result;
}

/* A response's stream is closed: what was begun with its request ends. */
static PyObject *
close_stream(PyObject *callable, PyObject *const *args, size_t count, PyObject *keywords)
{
    PyObject *result = PyObject_Vectorcall(((Wrapper *)callable)->original, args, count, keywords);
    PyObject *raised = result == NULL ? take_error() : NULL;
    PyObject *pair = PyVectorcall_NARGS(count) ? own_attribute(args[0], s__jobdoctor_call, true) : NULL;
    if (pair != NULL && PyTuple_CheckExact(pair) && PyTuple_GET_SIZE(pair) == 2) {
        PyObject *response = PyObject_CallNoArgs(PyTuple_GET_ITEM(pair, 1));
        PyObject *status = response == NULL || response == Py_None ? NULL : PyObject_GetAttr(response, s_status_code);
        PyObject *received = status == NULL ? NULL : PyObject_GetAttr(response, s_num_bytes_downloaded);
        PyErr_Clear();
        Facts facts = {.rows = -1, .status = number(status, 0), .received = number(received, 0)};
        PyObject *call = PyTuple_GET_ITEM(pair, 0);
        if (Py_IS_TYPE(call, &CallType)) {
            end_call((Call *)call, NULL, &facts);
        }
        else { /* the recorder in Python began it */
            PyObject *done = PyObject_CallMethod(call, "end", "OOiLL", Py_None, Py_None, 0, (long long)facts.received,
                                                 (long long)facts.status);
            Py_XDECREF(done);
        }
        Py_XDECREF(response);
        Py_XDECREF(status);
        Py_XDECREF(received);
    }
    Py_XDECREF(pair);
    if (raised != NULL) {
        return go_on(raised);
    }
    if (PyErr_Occurred() && swallow() < 0) {
        Py_CLEAR(result);
    }
    return result;
}

/* -- locks */

/* A lock is made: those of the application are for the rest to wrap. */
static PyObject *
make_lock(PyObject *callable, PyObject *const *args, size_t count, PyObject *keywords)
{
    Wrapper *self = (Wrapper *)callable;
#ifdef OWN_FRAMES
    Frame *frame = own_frames ? innermost() : NULL;
    PyObject *application = frame == NULL ? NULL : PyDict_GetItemWithError(files, code_of(frame)->co_filename);
    if (application == Py_False) {
        return PyObject_Vectorcall(self->original, args, count, keywords);
    }
    PyErr_Clear();
#endif
    return PyObject_Vectorcall(self->rest, args, count, keywords);
}

/* -- the type */

static PyObject *
wrapper_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"kind", "original", "rest", "sessions", "open", "relationship", "settle", "fail", NULL};
    const char *kind;
    PyObject *original, *rest, *sessions = NULL, *open = NULL, *relationship = NULL, *settle = NULL, *fail = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "sOO|O!O!O!OO:Wrapper", names, &kind, &original, &rest, &PyDict_Type,
                                     &sessions, &PyDict_Type, &open, &PyContextVar_Type, &relationship, &settle,
                                     &fail)) {
        return NULL;
    }
    const struct {
        const char *kind;
        Record record;
        vectorcallfunc call;
    } all[] = {
        {"dialect", record_dialect, wrapper_call},   {"driver", record_driver, wrapper_call},
        {"command", record_command, wrapper_call},   {"pipeline", record_pipeline, wrapper_call},
        {"request", record_request, wrapper_call},   {"stream", NULL, close_stream},
        {"lock", NULL, make_lock},                   {NULL, NULL, NULL},
    }, *known = all;
    while (known->kind != NULL && strcmp(known->kind, kind)) {
        known++;
    }
    if (known->kind == NULL || (known->record != NULL && sessions == NULL) ||
        ((known->record == record_dialect || known->record == record_driver) && fail == NULL)) {
        PyErr_SetString(PyExc_ValueError, "no such kind of wrapper");
        return NULL;
    }
    if (recorder_names == NULL) {
        PyObject *module = PyImport_ImportModule("jobdoctor.capture.recorder");
        if (module == NULL) {
            return NULL;
        }
        recorder_names = Py_NewRef(PyModule_GetDict(module));
        Py_DECREF(module);
    }
    Wrapper *self = (Wrapper *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->vectorcall = known->call;
        self->record = known->record;
        self->original = Py_NewRef(original);
        self->rest = Py_NewRef(rest);
        self->sessions = Py_XNewRef(sessions);
        self->open = Py_XNewRef(open);
        self->relationship = Py_XNewRef(relationship);
        self->settle = Py_XNewRef(settle);
        self->fail = Py_XNewRef(fail);
    }
    return (PyObject *)self;
}

static PyObject *
wrapper_get(PyObject *self, PyObject *instance, PyObject *Py_UNUSED(type))
{
    return instance == NULL || instance == Py_None ? Py_NewRef(self) : PyMethod_New(self, instance);
}

static PyObject *
wrapper_repr(PyObject *self)
{
    return PyObject_Repr(((Wrapper *)self)->rest);
}

/* As functions are: by the name where they stand. */
static PyObject *
wrapper_reduce(PyObject *self, PyObject *Py_UNUSED(none))
{
    return PyObject_GetAttrString(self, "__qualname__");
}

static PyMethodDef wrapper_methods[] = {
    {"__reduce__", wrapper_reduce, METH_NOARGS, NULL},
    {NULL},
};

static PyGetSetDef wrapper_getset[] = {
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {NULL},
};

static void
wrapper_free(PyObject *self)
{
    if (((Wrapper *)self)->weakrefs != NULL) {
        PyObject_ClearWeakRefs(self);
    }
    wrapper_dealloc(self);
}

static PyTypeObject WrapperType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "jobdoctor.capture._accelerator.Wrapper",
    .tp_basicsize = sizeof(Wrapper),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_METHOD_DESCRIPTOR,
    .tp_new = wrapper_new,
    .tp_call = PyVectorcall_Call,
    .tp_vectorcall_offset = offsetof(Wrapper, vectorcall),
    .tp_descr_get = wrapper_get,
    .tp_dictoffset = offsetof(Wrapper, dict),
    .tp_weaklistoffset = offsetof(Wrapper, weakrefs),
    .tp_repr = wrapper_repr,
    .tp_traverse = wrapper_traverse,
    .tp_clear = wrapper_clear,
    .tp_dealloc = wrapper_free,
    .tp_free = PyObject_GC_Del,
    .tp_methods = wrapper_methods,
    .tp_getset = wrapper_getset,
};

/* As built-in functions are: no method of a class that has it as an attribute. */
static PyTypeObject FunctionType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "jobdoctor.capture._accelerator.Function",
    .tp_basicsize = sizeof(Wrapper),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL,
    .tp_new = wrapper_new,
    .tp_call = PyVectorcall_Call,
    .tp_vectorcall_offset = offsetof(Wrapper, vectorcall),
    .tp_dictoffset = offsetof(Wrapper, dict),
    .tp_weaklistoffset = offsetof(Wrapper, weakrefs),
    .tp_repr = wrapper_repr,
    .tp_traverse = wrapper_traverse,
    .tp_clear = wrapper_clear,
    .tp_dealloc = wrapper_free,
    .tp_free = PyObject_GC_Del,
    .tp_methods = wrapper_methods,
    .tp_getset = wrapper_getset,
};

/* ---------------------------------------------------------------------------------------------------------- the rest */

static PyObject *
core_shape(Core *self, PyObject *const *args, Py_ssize_t given, PyObject *keywords)
{
    PyObject *const names[] = {s_channel, s_operation, s_fingerprint, s_target, s_library, s_effect, s_relationship};
    PyObject *places[7] = {NULL};
    if (arguments("shape", places, names, 7, args, given, keywords) < 0) {
        return NULL;
    }
    if (places[0] == NULL || places[1] == NULL || places[2] == NULL) {
        PyErr_SetString(PyExc_TypeError, "shape() takes a channel, an operation and a fingerprint");
        return NULL;
    }
    PyObject *identity = PyTuple_New(7);
    if (identity == NULL) {
        return NULL;
    }
    for (Py_ssize_t at = 0; at < 7; at++) {
        PyObject *missing = names[at] == s_effect ? s_unknown : s_nothing;
        PyTuple_SET_ITEM(identity, at, Py_NewRef(places[at] != NULL ? places[at] : missing));
    }
    PyObject *shape = self->shapes == NULL ? NULL : Py_XNewRef(PyDict_GetItemWithError(self->shapes, identity));
    if (shape == NULL && !PyErr_Occurred()) {
        shape = PyObject_CallMethodOneArg((PyObject *)self, s__intern, identity);
    }
    Py_DECREF(identity);
    return shape;
}

static PyObject *
core_enter(Core *self, PyObject *const *args, Py_ssize_t given)
{
    if (given != 2) {
        PyErr_SetString(PyExc_TypeError, "_enter() takes a phase and an instant");
        return NULL;
    }
    int64_t phase = PyLong_AsLongLong(args[0]), now = PyLong_AsLongLong(args[1]);
    if (PyErr_Occurred()) {
        return NULL;
    }
    int64_t at = H_CHANNELS + phase * channels;
    if (phase < 0 || self->words == NULL || (at + channels) * WORD > FLIGHTS_AT) {
        PyErr_SetString(PyExc_ValueError, "no such phase, or no memory");
        return NULL;
    }
    if (self->busy) {
        attribute(self, now);
    }
    self->channels_at = at;
    Py_RETURN_NONE;
}

/* As `reference._scheduled`: CPU and run-queue delay of this thread so far, 0 where the kernel does not say. */
static void
scheduled(Core *self, int64_t *cpu, int64_t *delay)
{
    *cpu = *delay = 0;
    if (self->schedule == NULL || self->schedule == Py_None) {
        int opened = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
        PyObject *made = PyLong_FromLong(opened);
        if (made == NULL) {
            PyErr_Clear();
            if (opened >= 0) {
                close(opened);
            }
            return;
        }
        Py_XSETREF(self->schedule, made);
    }
    int64_t descriptor = number(self->schedule, -1);
    char text[65], *end;
    ssize_t size = descriptor < 0 ? 0 : pread((int)descriptor, text, sizeof text - 1, 0);
    if (size <= 0) {
        return;
    }
    text[size] = 0;
    long long first = strtoll(text, &end, 10);
    if (end == text || *end != ' ') {
        return;
    }
    char *rest = end;
    long long second = strtoll(rest, &end, 10);
    if (end != rest && *end == ' ') {
        *cpu = first;
        *delay = second;
    }
}

/* As `reference.mark`. */
static PyObject *
core_mark(Core *self, PyObject *name)
{
    int64_t now, cpu = 0, thread_cpu = 0, delay = 0;
    PyObject *known = PyDict_GetItemWithError(phase_index, name);
    int64_t phase = known == NULL ? -1 : number(known, -1);
    if (phase < 0 || phase > 62 || self->words == NULL || read_clock(self->clock, &now) < 0) {
        return swallow() < 0 ? NULL : Py_NewRef(Py_None);
    }
    int64_t *words = self->words, used = words[H_PHASES];
    bool room = used >= 0 && used < PHASE_MARKS;
    bool timed = !used || (timed_phases >> phase & 1) || (timed_phases >> (self->phase & 63) & 1);
    if (room && timed) {
        if (read_clock(self->cpu_clock, &cpu) < 0) {
            return swallow() < 0 ? NULL : Py_NewRef(Py_None);
        }
        scheduled(self, &thread_cpu, &delay);
    }
    PyObject *token = PyContextVar_Set(inside, Py_None);
    if (token == NULL) {
        PyErr_Clear();
    }
    Py_XDECREF(token);
    if (self->words != words) { /* released by what ran meanwhile */
        Py_RETURN_NONE;
    }
    if (self->busy) {
        attribute(self, now);
    }
    self->channels_at = H_CHANNELS + phase * channels;
    self->phase = phase;
    self->silent = silent_phases >> phase & 1;
    if (room) {
        int64_t *mark = words + PHASES_AT / WORD + used * PHASE_WORDS;
        mark[0] = phase;
        mark[1] = now;
        if (timed) {
            mark[2] = cpu;
            mark[3] = delay;
            mark[4] = thread_cpu;
        }
        words[H_PHASES] = used + 1;
    } else {
        words[H_TRUNCATED] |= OVER_BUDGET;
    }
    Py_RETURN_NONE;
}

/* As `reference.began`. */
static PyObject *
core_began(Core *self, PyObject *Py_UNUSED(none))
{
    PyObject *threads = PyDict_New(), *ident = PyLong_FromUnsignedLong(PyThread_get_thread_ident());
    PyObject *zero = PyLong_FromLong(0);
    bool made = threads != NULL && ident != NULL && zero != NULL && PyDict_SetItem(threads, ident, zero) == 0;
    Py_XDECREF(ident);
    Py_XDECREF(zero);
    PyObject *token = made ? PyContextVar_Set(inside, Py_None) : NULL;
    if (token == NULL) {
        Py_XDECREF(threads);
        return NULL;
    }
    Py_DECREF(token);
    self->ident = 0;
    Py_XSETREF(self->threads, threads);
    if (self->words != NULL) {
        self->words[H_PID] = getpid();
    }
    Py_RETURN_NONE;
}

static PyObject *
core_get_threads(Core *self, void *Py_UNUSED(closure))
{
    return Py_NewRef(self->threads == NULL ? Py_None : self->threads);
}

static int
core_set_threads(Core *self, PyObject *threads, void *Py_UNUSED(closure))
{
    if (threads != NULL && !PyDict_Check(threads)) {
        PyErr_SetString(PyExc_TypeError, "threads are a dict");
        return -1;
    }
    self->ident = 0; /* whoever called last has no number yet */
    Py_XSETREF(self->threads, Py_XNewRef(threads));
    return 0;
}

static PyGetSetDef core_getset[] = {
    {"_threads", (getter)core_get_threads, (setter)core_set_threads, NULL, NULL},
    {NULL},
};

static PyMemberDef core_members[] = {
    {"generation", T_OBJECT, offsetof(Core, generation), READONLY, NULL},
    {"clock", T_OBJECT, offsetof(Core, clock), 0, NULL},
    {"thread_clock", T_OBJECT, offsetof(Core, thread_clock), 0, NULL},
    {"_cpu_clock", T_OBJECT, offsetof(Core, cpu_clock), 0, NULL},
    {"_schedule", T_OBJECT, offsetof(Core, schedule), 0, NULL},
    {"phase", T_LONGLONG, offsetof(Core, phase), 0, NULL},
    {"silent", T_BOOL, offsetof(Core, silent), 0, NULL},
    {"busy", T_LONGLONG, offsetof(Core, busy), READONLY, NULL},
    {"last", T_LONGLONG, offsetof(Core, last), READONLY, NULL},
    {"channels_at", T_LONGLONG, offsetof(Core, channels_at), READONLY, NULL},
    {"_shapes", T_OBJECT, offsetof(Core, shapes), 0, NULL},
    {"_open", T_OBJECT, offsetof(Core, open), 0, NULL},
    {NULL},
};

static PyMethodDef core_methods[] = {
    {"shape", (PyCFunction)(void (*)(void))core_shape, METH_FASTCALL | METH_KEYWORDS, "The interned shape of a call."},
    {"begin", (PyCFunction)(void (*)(void))core_begin, METH_FASTCALL | METH_KEYWORDS, "A call begins now."},
    {"mark", (PyCFunction)core_mark, METH_O, "A phase begins, one of ``layout.PHASES``. Never raises."},
    {"began", (PyCFunction)core_began, METH_NOARGS, "The execution begins, in this process and thread."},
    {"_attach", (PyCFunction)core_attach, METH_O, NULL},
    {"_detach", (PyCFunction)core_detach, METH_NOARGS, NULL},
    {"_enter", (PyCFunction)(void (*)(void))core_enter, METH_FASTCALL, NULL},
    {"_forget_calls", (PyCFunction)core_forget_calls, METH_NOARGS, NULL},
    {NULL},
};

static PyTypeObject CoreType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "jobdoctor.capture._accelerator.Core",
    .tp_basicsize = sizeof(Core),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .tp_doc = "What a recorder does for each call.",
    .tp_new = PyType_GenericNew,
    .tp_traverse = (traverseproc)core_traverse,
    .tp_clear = (inquiry)core_clear,
    .tp_dealloc = (destructor)core_dealloc,
    .tp_free = PyObject_GC_Del,
    .tp_methods = core_methods,
    .tp_members = core_members,
    .tp_getset = core_getset,
};

/* ------------------------------------------------------------------------------------------------------------ module */

static PyObject *
attribute_of(const char *module, const char *name)
{
    PyObject *imported = PyImport_ImportModule(module);
    PyObject *found = imported == NULL ? NULL : PyObject_GetAttrString(imported, name);
    Py_XDECREF(imported);
    return found;
}

static int
take_number(const char *module, const char *name, int64_t *place)
{
    PyObject *found = attribute_of(module, name);
    if (found == NULL) {
        return -1;
    }
    *place = (int64_t)PyLong_AsUnsignedLongLongMask(found);
    Py_DECREF(found);
    return PyErr_Occurred() ? -1 : 0;
}

static int
take_object(const char *module, const char *name, PyObject **place)
{
    Py_XSETREF(*place, attribute_of(module, name));
    return *place == NULL ? -1 : 0;
}

/* A bit for each number of a set. */
static int
take_set(const char *module, const char *name, int64_t *place)
{
    PyObject *found = attribute_of(module, name);
    PyObject *each, *numbers = found == NULL ? NULL : PyObject_GetIter(found);
    *place = 0;
    while (numbers != NULL && (each = PyIter_Next(numbers)) != NULL) {
        *place |= (int64_t)1 << (number(each, 63) & 63);
        Py_DECREF(each);
    }
    Py_XDECREF(numbers);
    Py_XDECREF(found);
    return PyErr_Occurred() ? -1 : 0;
}

static int
take_all(void)
{
#define TAKE_LAYOUT(name)                                                                                              \
    if (take_number("jobdoctor.capture.layout", #name, &name) < 0) {                                                   \
        return -1;                                                                                                     \
    }
    LAYOUT(TAKE_LAYOUT)
#define TAKE_FLAG(name)                                                                                                \
    if (take_number("jobdoctor.capture.calls", #name, &name) < 0) {                                                    \
        return -1;                                                                                                     \
    }
    FLAGS(TAKE_FLAG)
#define TAKE_LIMIT(name)                                                                                               \
    if (take_number("jobdoctor.capture.reference", #name, &name) < 0) {                                                \
        return -1;                                                                                                     \
    }
    LIMITS(TAKE_LIMIT)
#define TAKE_NAME(name)                                                                                                \
    if ((s_##name = PyUnicode_InternFromString(#name)) == NULL) {                                                      \
        return -1;                                                                                                     \
    }
    NAMES(TAKE_NAME)
    PyObject *names = NULL;
    if ((s_nothing = PyUnicode_InternFromString("")) == NULL ||
        (s_psycopg = PyUnicode_InternFromString("psycopg.")) == NULL || (cursor_types = PyDict_New()) == NULL ||
        take_number("jobdoctor.capture.layout", "DISTINCT_FACTOR", (int64_t *)&distinct_factor) < 0 ||
        take_number("jobdoctor.capture.layout", "DISTINCT_CELL_FACTOR", (int64_t *)&distinct_cell_factor) < 0 ||
        take_object("jobdoctor.capture.layout", "CHANNELS", &names) < 0 ||
        take_object("jobdoctor.capture.calls", "inside", &inside) < 0 ||
        take_object("jobdoctor.capture.callsites", "files", &files) < 0 ||
        take_object("jobdoctor.capture.callsites", "beyond_greenlets", &beyond_greenlets) < 0 ||
        take_object("jobdoctor.capture.foreign", "foreign", &foreign) < 0 ||
        take_object("sys", "modules", &modules) < 0 ||
        take_object("jobdoctor.capture.layout", "PHASE_INDEX", &phase_index) < 0 ||
        take_set("jobdoctor.capture.layout", "SILENT_PHASES", &silent_phases) < 0 ||
        take_set("jobdoctor.capture.reference", "TIMED_PHASES", &timed_phases) < 0 ||
        take_object("time", "process_time_ns", &process_time_ns) < 0 ||
        take_object("time", "perf_counter_ns", &perf_counter_ns) < 0 ||
        take_object("time", "thread_time_ns", &thread_time_ns) < 0) {
        Py_XDECREF(names);
        return -1;
    }
    channels = PyObject_Size(names);
    Py_DECREF(names);
    if (!PyDict_Check(files) || !PyDict_Check(modules) || !PyDict_Check(phase_index) || channels < 1 || channels > MOST_CHANNELS ||
        FLIGHTS > MOST_FLIGHTS || WORD != sizeof(int64_t)) {
        PyErr_SetString(PyExc_ImportError, "the accelerator does not know this layout");
        return -1;
    }
    return 0;
}

static int
execute(PyObject *module)
{
#ifdef OWN_FRAMES
    own_frames = frames_agree();
#endif
    if (take_all() < 0 || PyModule_AddType(module, &CoreType) < 0 || PyModule_AddType(module, &CellType) < 0 ||
        PyModule_AddType(module, &ShapeType) < 0 || PyModule_AddType(module, &CallType) < 0 ||
        PyModule_AddType(module, &KnownType) < 0 || PyModule_AddType(module, &SessionType) < 0 ||
        PyModule_AddType(module, &ServerType) < 0 || PyModule_AddType(module, &WrapperType) < 0 ||
        PyModule_AddType(module, &FunctionType) < 0) {
        return -1;
    }
    return PyModule_AddIntConstant(module, "CONTRACT", CONTRACT);
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, execute},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
    {0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "jobdoctor.capture._accelerator",
    .m_doc = "The recorder's hot path in C.",
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__accelerator(void)
{
    return PyModuleDef_Init(&module);
}
