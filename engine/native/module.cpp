// The Python module `vectorizer_engine._native`: buffers in, buffers out, without Python's lock meanwhile.
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <cerrno>
#include <exception>
#include <new>
#include <string>
#include <system_error>
#include <vector>

#include "build.hpp"
#include "graph.hpp"
#include "json.hpp"
#include "kernels.hpp"
#include "points.hpp"

namespace {

// A view of an object's bytes, for as long as a call lasts.
class Buffer {
public:
    Buffer() = default;
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer() {
        if (held_) PyBuffer_Release(&view_);
    }

    // False, with a Python error set, where it is not *size* bytes in one piece.
    bool hold(PyObject* object, Py_ssize_t size, bool writable = false) {
        if (PyObject_GetBuffer(object, &view_, writable ? PyBUF_WRITABLE : PyBUF_SIMPLE) < 0) return false;
        held_ = true;
        if (size >= 0 && view_.len != size) {
            PyErr_Format(PyExc_ValueError, "a buffer has %zd bytes, expected %zd", view_.len, size);
            return false;
        }
        return true;
    }

    template <typename T>
    T* as() const {
        return static_cast<T*>(view_.buf);
    }
    size_t size() const { return size_t(view_.len); }

private:
    Py_buffer view_{};
    bool held_ = false;
};

PyObject* allocate_object(PyTypeObject* type) {
    return reinterpret_cast<allocfunc>(PyType_GetSlot(type, Py_tp_alloc))(type, 0);
}

// Of a type that is made from a specification, which its objects hold.
void free_object(PyObject* self) {
    PyTypeObject* type = Py_TYPE(self);
    reinterpret_cast<freefunc>(PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

// Null, with a Python error set, where there is no such *variant*.
const kernels::Kernels* kernels_of(Py_ssize_t variant) {
    if (variant >= 0 && size_t(variant) < kernels::usable().size()) return &kernels::usable()[size_t(variant)];
    PyErr_Format(PyExc_ValueError, "variant %zd, expected one below VARIANTS", variant);
    return nullptr;
}

// --- Graph ---------------------------------------------------------------------------------------------------------

struct GraphObject {
    PyObject_HEAD
    graph::Graph* graph;
    const kernels::Kernels* kernels;
    Buffer* body;
    Buffer* vectors;
};

void graph_dealloc(PyObject* self) {
    auto* object = reinterpret_cast<GraphObject*>(self);
    delete object->graph;
    delete object->body;
    delete object->vectors;
    free_object(self);
}

PyObject* graph_new(PyTypeObject* type, PyObject* arguments, PyObject*) {
    PyObject* body;
    PyObject* vectors;
    Py_ssize_t count, dimension;
    Py_ssize_t variant = 0;
    int euclid;
    if (!PyArg_ParseTuple(arguments, "OOnnp|n", &body, &vectors, &count, &dimension, &euclid, &variant)) return nullptr;
    const kernels::Kernels* kernels = kernels_of(variant);
    if (kernels == nullptr) return nullptr;
    if (count < 0 || dimension < 1 || count > PY_SSIZE_T_MAX / 4 / dimension) {
        PyErr_SetString(PyExc_ValueError, "there are no so many vectors");
        return nullptr;
    }
    PyObject* self = allocate_object(type);
    if (self == nullptr) return nullptr;
    auto* object = reinterpret_cast<GraphObject*>(self);
    object->graph = nullptr;
    object->kernels = kernels;
    object->body = new (std::nothrow) Buffer();
    object->vectors = new (std::nothrow) Buffer();
    const char* problem = nullptr;
    try {
        if (object->body == nullptr || object->vectors == nullptr) throw std::bad_alloc();
        if (object->body->hold(body, -1) && object->vectors->hold(vectors, count * dimension * 4)) {
            const graph::Bytes bytes{object->body->as<const uint8_t>(), object->body->size()};
            const auto metric = euclid ? graph::Metric::l2 : graph::Metric::inner_product;
            object->graph = graph::Graph::parse(bytes, size_t(count), size_t(dimension), metric, &problem);
            if (object->graph == nullptr) PyErr_SetString(PyExc_ValueError, problem);
        }
    } catch (const std::bad_alloc&) {
        PyErr_NoMemory();
    }
    if (object->graph == nullptr) {
        Py_DECREF(self);
        return nullptr;
    }
    return self;
}

PyObject* graph_search(PyObject* self, PyObject* const* arguments, Py_ssize_t given) {
    if (given != 8) {
        PyErr_SetString(PyExc_TypeError, "search() takes 8 arguments");
        return nullptr;
    }
    const auto* object = reinterpret_cast<GraphObject*>(self);
    const size_t count = object->graph->count();
    const auto row_bytes = Py_ssize_t(object->graph->dimension() * 4);
    const Py_ssize_t limit = PyLong_AsSsize_t(arguments[1]);
    const Py_ssize_t candidates = PyLong_AsSsize_t(arguments[2]);
    const Py_ssize_t ef = PyLong_AsSsize_t(arguments[3]);
    if (PyErr_Occurred()) return nullptr;
    if (limit < 1 || candidates < limit || ef < 1 || size_t(candidates) > count * 1024) {
        PyErr_SetString(PyExc_ValueError, "expected 1 <= limit <= candidates, and 1 <= ef");
        return nullptr;
    }
    Buffer queries, mask, offsets, scores, found;
    if (!queries.hold(arguments[0], -1)) return nullptr;
    const Py_ssize_t rows = Py_ssize_t(queries.size()) / row_bytes;
    if (Py_ssize_t(queries.size()) != rows * row_bytes) {
        PyErr_Format(PyExc_ValueError, "queries of %zu bytes, expected rows of %zd", queries.size(), row_bytes);
        return nullptr;
    }
    const bool masked = arguments[4] != Py_None;
    if ((masked && !mask.hold(arguments[4], Py_ssize_t((count + 7) / 8))) ||
        !offsets.hold(arguments[5], rows * limit * 8, true) || !scores.hold(arguments[6], rows * limit * 4, true) ||
        !found.hold(arguments[7], rows * 4, true))
        return nullptr;
    const graph::Graph::Question question{queries.as<const float>(), size_t(rows), size_t(limit), size_t(candidates),
                                          size_t(ef), masked ? mask.as<const uint8_t>() : nullptr};
    const graph::Graph::Answer answer{offsets.as<int64_t>(), scores.as<float>(), found.as<int32_t>()};
    bool enough_memory = true;
    Py_BEGIN_ALLOW_THREADS
    try {
        object->graph->search(object->vectors->as<const float>(), question, answer, *object->kernels);
    } catch (const std::bad_alloc&) {
        enough_memory = false;
    }
    Py_END_ALLOW_THREADS
    if (!enough_memory) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

PyMethodDef graph_methods[] = {
    {"search", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(graph_search)), METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyType_Slot graph_slots[] = {
    {Py_tp_new, reinterpret_cast<void*>(graph_new)},
    {Py_tp_dealloc, reinterpret_cast<void*>(graph_dealloc)},
    {Py_tp_methods, graph_methods},
    {0, nullptr},
};

PyType_Spec graph_spec = {"vectorizer_engine._native.Graph", sizeof(GraphObject), 0, Py_TPFLAGS_DEFAULT, graph_slots};

// --- Built ---------------------------------------------------------------------------------------------------------

struct BuiltObject {
    PyObject_HEAD
    build::Index* index;
};

void built_dealloc(PyObject* self) {
    delete reinterpret_cast<BuiltObject*>(self)->index;
    free_object(self);
}

PyObject* built_new(PyTypeObject* type, PyObject* arguments, PyObject*) {
    PyObject* vectors;
    Py_ssize_t count, dimension, links, ef, threads;
    Py_ssize_t variant = 0;
    int euclid;
    if (!PyArg_ParseTuple(arguments, "Onnpnnn|n", &vectors, &count, &dimension, &euclid, &links, &ef, &threads,
                          &variant))
        return nullptr;
    const kernels::Kernels* kernels = kernels_of(variant);
    if (kernels == nullptr) return nullptr;
    if (count < 1 || count > INT32_MAX || dimension < 1 || dimension > INT32_MAX ||
        count > PY_SSIZE_T_MAX / 4 / dimension) {
        PyErr_Format(PyExc_ValueError, "%zd vectors of dimension %zd: expected 1 to 2147483647 of each", count,
                     dimension);
        return nullptr;
    }
    if (links < 2 || size_t(links) > build::MOST_LINKS || ef < 1 || size_t(ef) > build::MOST_EF || threads < 1 ||
        size_t(threads) > build::MOST_THREADS) {
        PyErr_Format(PyExc_ValueError, "%zd links, ef %zd, %zd threads: expected 2 to %zu, 1 to %zu and 1 to %zu",
                     links, ef, threads, build::MOST_LINKS, build::MOST_EF, build::MOST_THREADS);
        return nullptr;
    }
    Buffer held;
    if (!held.hold(vectors, count * dimension * 4)) return nullptr;
    const build::Task task{held.as<const float>(),
                           size_t(count),
                           size_t(dimension),
                           euclid ? codes::Metric::l2 : codes::Metric::inner_product,
                           size_t(links),
                           size_t(ef),
                           size_t(threads)};
    build::Index* index = nullptr;
    int no_thread = 0;
    Py_BEGIN_ALLOW_THREADS
    try {
        index = new build::Index(task, *kernels);
    } catch (const std::system_error& problem) {
        no_thread = problem.code().value();
    } catch (const std::exception&) {  // nothing else is thrown but for lack of memory
    }
    Py_END_ALLOW_THREADS
    if (index == nullptr) {
        if (no_thread == 0) return PyErr_NoMemory();
        errno = no_thread;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    PyObject* self = allocate_object(type);
    if (self == nullptr)
        delete index;
    else
        reinterpret_cast<BuiltObject*>(self)->index = index;
    return self;
}

PyObject* built_read(PyObject* self, PyObject* const* arguments, Py_ssize_t given) {
    if (given != 2) {
        PyErr_SetString(PyExc_TypeError, "read() takes 2 arguments");
        return nullptr;
    }
    const Py_ssize_t position = PyLong_AsSsize_t(arguments[0]);
    if (position < 0) {
        if (!PyErr_Occurred()) PyErr_Format(PyExc_ValueError, "position %zd, expected at least 0", position);
        return nullptr;
    }
    Buffer out;
    if (!out.hold(arguments[1], -1, true)) return nullptr;
    const build::Index& index = *reinterpret_cast<BuiltObject*>(self)->index;
    return PyLong_FromSize_t(index.read(size_t(position), out.as<uint8_t>(), out.size()));
}

PyMethodDef built_methods[] = {
    {"read", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(built_read)), METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyType_Slot built_slots[] = {
    {Py_tp_new, reinterpret_cast<void*>(built_new)},
    {Py_tp_dealloc, reinterpret_cast<void*>(built_dealloc)},
    {Py_tp_methods, built_methods},
    {0, nullptr},
};

PyType_Spec built_spec = {"vectorizer_engine._native.Built", sizeof(BuiltObject), 0, Py_TPFLAGS_DEFAULT, built_slots};

// --- Points --------------------------------------------------------------------------------------------------------

struct PointsObject {
    PyObject_HEAD
    points::Points* points;
    Buffer* file;
};

void points_dealloc(PyObject* self) {
    auto* object = reinterpret_cast<PointsObject*>(self);
    delete object->points;
    delete object->file;
    free_object(self);
}

PyObject* points_new(PyTypeObject* type, PyObject* arguments, PyObject*) {
    PyObject* file;
    if (!PyArg_ParseTuple(arguments, "O", &file)) return nullptr;
    PyObject* self = allocate_object(type);
    if (self == nullptr) return nullptr;
    auto* object = reinterpret_cast<PointsObject*>(self);
    object->file = new (std::nothrow) Buffer();
    object->points = new (std::nothrow) points::Points();
    if (object->file == nullptr || object->points == nullptr) {
        PyErr_NoMemory();
    } else if (object->file->hold(file, -1)) {
        if (object->points->open(object->file->as<const uint8_t>(), object->file->size())) return self;
        PyErr_SetString(PyExc_ValueError, "it is no LMDB file of format 1 with a table of points");
    }
    Py_DECREF(self);
    return nullptr;
}

PyObject* points_hits(PyObject* self, PyObject* const* arguments, Py_ssize_t given) {
    if (given != 3) {
        PyErr_SetString(PyExc_TypeError, "hits() takes 3 arguments");
        return nullptr;
    }
    Buffer offsets, scores, counts;
    if (!offsets.hold(arguments[0], -1)) return nullptr;
    const size_t all = offsets.size() / sizeof(int64_t);
    if (!scores.hold(arguments[1], Py_ssize_t(all * sizeof(float))) || !counts.hold(arguments[2], -1)) return nullptr;
    const auto* count = counts.as<const int64_t>();
    const size_t lists = counts.size() / sizeof(int64_t);
    size_t counted = 0;
    for (size_t i = 0; i < lists; ++i) {
        if (count[i] < 0 || uint64_t(count[i]) > all - counted) {
            PyErr_SetString(PyExc_ValueError, "the lists are longer than what is in them");
            return nullptr;
        }
        counted += size_t(count[i]);
    }
    std::string text;
    std::vector<size_t> ends;
    bool enough_memory = true, whole = true;
    Py_BEGIN_ALLOW_THREADS
    try {
        text.reserve(64 * all + 2 * lists);
        size_t done = 0;
        for (size_t i = 0; i < lists && whole; done += size_t(count[i++])) {
            whole = json::write_hits(*reinterpret_cast<PointsObject*>(self)->points, offsets.as<const int64_t>() + done,
                                     scores.as<const float>() + done, size_t(count[i]), &text);
            ends.push_back(text.size());
        }
    } catch (const std::bad_alloc&) {
        enough_memory = false;
    }
    Py_END_ALLOW_THREADS
    if (!enough_memory) return PyErr_NoMemory();
    if (!whole) Py_RETURN_NONE;
    PyObject* texts = PyList_New(Py_ssize_t(lists));
    for (size_t i = 0, start = 0; texts != nullptr && i < lists; start = ends[i++]) {
        PyObject* each = PyBytes_FromStringAndSize(text.data() + start, Py_ssize_t(ends[i] - start));
        if (each == nullptr || PyList_SetItem(texts, Py_ssize_t(i), each) < 0) Py_CLEAR(texts);
    }
    return texts;
}

PyObject* points_stamps(PyObject* self, PyObject* offsets) {
    Buffer held;
    if (!held.hold(offsets, -1)) return nullptr;
    const auto* offset = held.as<const int64_t>();
    const size_t count = held.size() / sizeof(int64_t);
    std::vector<points::Stamp> found;
    bool enough_memory = true, whole = true;
    Py_BEGIN_ALLOW_THREADS
    try {
        found.resize(count);
        for (size_t i = 0; i < count && whole; ++i)
            whole = reinterpret_cast<PointsObject*>(self)->points->find(offset[i], &found[i]);
    } catch (const std::bad_alloc&) {
        enough_memory = false;
    }
    Py_END_ALLOW_THREADS
    if (!enough_memory) return PyErr_NoMemory();
    if (!whole) Py_RETURN_NONE;
    PyObject* stamps = PyList_New(Py_ssize_t(count));
    for (size_t i = 0; stamps != nullptr && i < count; ++i) {
        PyObject* each = Py_BuildValue("(y#K)", reinterpret_cast<const char*>(found[i].key()),
                                       Py_ssize_t(found[i].key_size()), static_cast<unsigned long long>(found[i].version));
        if (each == nullptr || PyList_SetItem(stamps, Py_ssize_t(i), each) < 0) Py_CLEAR(stamps);
    }
    return stamps;
}

PyMethodDef points_methods[] = {
    {"stamps", points_stamps, METH_O, nullptr},
    {"hits", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(points_hits)), METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyType_Slot points_slots[] = {
    {Py_tp_new, reinterpret_cast<void*>(points_new)},
    {Py_tp_dealloc, reinterpret_cast<void*>(points_dealloc)},
    {Py_tp_methods, points_methods},
    {0, nullptr},
};

PyType_Spec points_spec = {"vectorizer_engine._native.Points", sizeof(PointsObject), 0, Py_TPFLAGS_DEFAULT,
                           points_slots};

// --- JSON ----------------------------------------------------------------------------------------------------------

PyObject* read_vector(PyObject*, PyObject* const* arguments, Py_ssize_t given) {
    if (given != 2) {
        PyErr_SetString(PyExc_TypeError, "read_vector() takes 2 arguments");
        return nullptr;
    }
    Buffer text, out;
    if (!text.hold(arguments[0], -1) || !out.hold(arguments[1], -1, true)) return nullptr;
    const size_t dimension = out.size() / sizeof(float);
    return PyBool_FromLong(json::read_vector(text.as<const char>(), text.size(), dimension, out.as<float>()));
}

PyObject* lift_vectors(PyObject*, PyObject* const* arguments, Py_ssize_t given) {
    if (given != 2) {
        PyErr_SetString(PyExc_TypeError, "lift_vectors() takes 2 arguments");
        return nullptr;
    }
    const Py_ssize_t dimension = PyLong_AsSsize_t(arguments[1]);
    if (dimension < 1) {
        if (!PyErr_Occurred()) PyErr_Format(PyExc_ValueError, "dimension %zd, expected at least 1", dimension);
        return nullptr;
    }
    Buffer text;
    if (!text.hold(arguments[0], -1)) return nullptr;
    std::string rest;
    std::vector<float> vectors;
    bool done = false, enough_memory = true;
    Py_BEGIN_ALLOW_THREADS
    try {
        done = json::lift_vectors(text.as<const char>(), text.size(), size_t(dimension), &rest, &vectors);
    } catch (const std::bad_alloc&) {
        enough_memory = false;
    }
    Py_END_ALLOW_THREADS
    if (!enough_memory) return PyErr_NoMemory();
    if (!done) Py_RETURN_NONE;
    const auto* rows = vectors.empty() ? "" : reinterpret_cast<const char*>(vectors.data());
    return Py_BuildValue("(y#y#)", rest.data(), Py_ssize_t(rest.size()), rows,
                         Py_ssize_t(vectors.size() * sizeof(float)));
}

PyMethodDef functions[] = {
    {"read_vector", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(read_vector)), METH_FASTCALL, nullptr},
    {"lift_vectors", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(lift_vectors)), METH_FASTCALL, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

bool add_type(PyObject* module, const char* name, PyType_Spec* spec) {
    PyObject* type = PyType_FromSpec(spec);
    if (type == nullptr) return false;
    const bool added = PyModule_AddObjectRef(module, name, type) == 0;
    Py_DECREF(type);
    return added;
}

int module_exec(PyObject* module) {
    if (!add_type(module, "Built", &built_spec) || !add_type(module, "Graph", &graph_spec) ||
        !add_type(module, "Points", &points_spec))
        return -1;
    return PyModule_AddIntConstant(module, "VARIANTS", long(kernels::usable().size()));
}

PyModuleDef_Slot module_slots[] = {{Py_mod_exec, reinterpret_cast<void*>(module_exec)}, {0, nullptr}};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_native", nullptr, 0, functions, module_slots, nullptr, nullptr,
                          nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__native() { return PyModuleDef_Init(&definition); }
