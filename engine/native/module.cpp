// The Python module `vectorizer_engine._native`: buffers in, buffers out, without Python's lock meanwhile.
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <new>

#include "graph.hpp"
#include "kernels.hpp"

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
    PyTypeObject* type = Py_TYPE(self);
    reinterpret_cast<freefunc>(PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

PyObject* graph_new(PyTypeObject* type, PyObject* arguments, PyObject*) {
    PyObject* body;
    PyObject* vectors;
    Py_ssize_t count, dimension;
    Py_ssize_t variant = 0;
    int euclid;
    if (!PyArg_ParseTuple(arguments, "OOnnp|n", &body, &vectors, &count, &dimension, &euclid, &variant)) return nullptr;
    if (variant < 0 || size_t(variant) >= kernels::usable().size()) {
        PyErr_Format(PyExc_ValueError, "variant %zd, expected one below VARIANTS", variant);
        return nullptr;
    }
    if (count < 0 || dimension < 1 || count > PY_SSIZE_T_MAX / 4 / dimension) {
        PyErr_SetString(PyExc_ValueError, "there are no so many vectors");
        return nullptr;
    }
    PyObject* self = reinterpret_cast<allocfunc>(PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (self == nullptr) return nullptr;
    auto* object = reinterpret_cast<GraphObject*>(self);
    object->graph = nullptr;
    object->kernels = &kernels::usable()[size_t(variant)];
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

int module_exec(PyObject* module) {
    PyObject* type = PyType_FromSpec(&graph_spec);
    if (type == nullptr) return -1;
    const int added = PyModule_AddObjectRef(module, "Graph", type);
    Py_DECREF(type);
    if (added < 0) return added;
    return PyModule_AddIntConstant(module, "VARIANTS", long(kernels::usable().size()));
}

PyModuleDef_Slot module_slots[] = {{Py_mod_exec, reinterpret_cast<void*>(module_exec)}, {0, nullptr}};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_native", nullptr, 0, nullptr, module_slots, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__native() { return PyModuleDef_Init(&definition); }
