/* engine.h over TensorFlow Lite Micro (TFLM): the library is the user's own build, see docs/tflm-runtime.md.
 *
 * Nothing here or in the library takes memory from a heap. The interpreter, its allocator and its planner are placed as
 * tflite::MicroAllocator::Create places them, so that bf_model.arena_bytes is the figure that TFLM itself reports for
 * the same model; only the failing allocation is noted on the way. C++17 without exceptions, RTTI, thread-safe statics
 * or static constructors (the start-up code runs none). */
#include "../runtime/engine.h"

#include <setjmp.h>
#include <stddef.h>

#include <new>

#include "../boards/board.h"
#include "flatbuffers/verifier.h"
#include "tensorflow/lite/micro/arena_allocator/single_arena_buffer_allocator.h"
#include "tensorflow/lite/micro/memory_planner/greedy_memory_planner.h"
#include "tensorflow/lite/micro/micro_allocator.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/schema/schema_generated.h"

const char bf_engine_name[] = "tflm";
const char bf_engine_version[] = BF_TFLM_VERSION; /* kernels and hash of the archive; targets/mcu/tflm.py */
volatile uint32_t bf_constant_lines = 0;          /* TFLM does not say how often its kernels read the weights */

namespace {

constexpr uint32_t kArenaAlignment = 16;
/* One registration per operator of toolchain/graph/operator.py. */
constexpr unsigned kOperators = 12;
using Resolver = tflite::MicroMutableOpResolver<kOperators>;

/* Static storage for an object that is made anew for each model. Destructors are not run: what these classes own lies
 * in the arena, which the next model takes whole. */
template <typename T>
struct Place {
    alignas(T) uint8_t bytes[sizeof(T)];
    template <typename... Arguments>
    T *make(Arguments &&...arguments) {
        return new (bytes) T(static_cast<Arguments &&>(arguments)...);
    }
};

/* Where to go on when the library gives up in the middle of a call: an assertion (it calls abort), or an allocation
 * that fails. Kernels built with NDEBUG use a failed allocation's null pointer, so control must not go back to them. */
jmp_buf way_out;
bool inside = false;
size_t missing = 0;

[[noreturn]] void leave() {
    if (!inside) {
        board_reset();
    }
    longjmp(way_out, 1);
}

/* TFLM's own allocator; a request that does not fit ends the call. */
class Arena final : public tflite::SingleArenaBufferAllocator {
  public:
    using tflite::SingleArenaBufferAllocator::SingleArenaBufferAllocator;

    uint8_t *AllocatePersistentBuffer(size_t size, size_t alignment) override {
        return must(SingleArenaBufferAllocator::AllocatePersistentBuffer(size, alignment), size);
    }
    uint8_t *AllocateTemp(size_t size, size_t alignment) override {
        return must(SingleArenaBufferAllocator::AllocateTemp(size, alignment), size);
    }
    TfLiteStatus ResizeBuffer(uint8_t *buffer, size_t size, size_t alignment) override {
        const TfLiteStatus status = SingleArenaBufferAllocator::ResizeBuffer(buffer, size, alignment);
        must(status == kTfLiteOk ? buffer : nullptr, size);
        return status;
    }
    TF_LITE_REMOVE_VIRTUAL_DELETE

  private:
    uint8_t *must(uint8_t *buffer, size_t size) {
        if (buffer == nullptr) {
            const size_t available = GetAvailableMemory(1);
            missing = size > available ? size - available : kArenaAlignment; /* the rest went to alignment */
            leave();
        }
        return buffer;
    }
};

/* The interpreter opens an event around each operator, in the order of the file. An event inside another is a kernel's
 * own and belongs to its operator. */
class OperatorTicks final : public tflite::MicroProfilerInterface {
  public:
    uint32_t BeginEvent(const char *) override {
        if (depth_++ == 0) {
            began_ = board_ticks();
        }
        return 0;
    }
    void EndEvent(uint32_t) override {
        const uint32_t now = board_ticks();
        if (--depth_ == 0) {
            if (ticks_ != nullptr && events_ < count_) {
                ticks_[events_] = now - began_;
            }
            ++events_;
        }
    }
    void start(uint32_t *ticks, uint32_t count) {
        ticks_ = ticks;
        count_ = count;
        events_ = 0;
        depth_ = 0;
    }
    uint32_t events() const { return events_; }
    TF_LITE_REMOVE_VIRTUAL_DELETE

  private:
    uint32_t *ticks_ = nullptr;
    uint32_t count_ = 0, events_ = 0, depth_ = 0, began_ = 0;
};

Place<Resolver> resolver_place;
Place<OperatorTicks> profiler_place;
Place<tflite::MicroInterpreter> interpreter_place;
OperatorTicks *profiler;
tflite::MicroInterpreter *interpreter; /* null: no model is open */
uint32_t operators;

const Resolver *make_resolver() {
    Resolver *resolver = resolver_place.make();
    const bool complete = resolver->AddConv2D() == kTfLiteOk && resolver->AddDepthwiseConv2D() == kTfLiteOk &&
                          resolver->AddFullyConnected() == kTfLiteOk && resolver->AddAdd() == kTfLiteOk &&
                          resolver->AddMul() == kTfLiteOk && resolver->AddAveragePool2D() == kTfLiteOk &&
                          resolver->AddMaxPool2D() == kTfLiteOk && resolver->AddPad() == kTfLiteOk &&
                          resolver->AddReshape() == kTfLiteOk && resolver->AddSoftmax() == kTfLiteOk &&
                          resolver->AddHardSwish() == kTfLiteOk && resolver->AddConcatenation() == kTfLiteOk;
    return complete ? resolver : nullptr;
}

/* Indices that the interpreter follows without looking; the flatbuffer verifier knows only about places. */
bool within(const flatbuffers::Vector<int32_t> *indices, uint32_t count, int32_t least) {
    for (uint32_t i = 0; indices != nullptr && i < indices->size(); ++i) {
        const int32_t index = indices->Get(i);
        if (index < least || index >= static_cast<int32_t>(count)) {
            return false;
        }
    }
    return true;
}

bf_status check(const uint8_t *data, uint32_t bytes, const Resolver &resolver) {
    flatbuffers::Verifier verifier(data, bytes);
    if (!tflite::VerifyModelBuffer(verifier)) {
        return BF_BAD_MODEL;
    }
    const tflite::Model *file = tflite::GetModel(data);
    if (file->version() != TFLITE_SCHEMA_VERSION) {
        return BF_WRONG_VERSION;
    }
    const auto *codes = file->operator_codes();
    if (codes == nullptr || file->buffers() == nullptr || file->subgraphs() == nullptr ||
        file->subgraphs()->size() == 0) {
        return BF_BAD_MODEL;
    }
    const tflite::SubGraph *graph = file->subgraphs()->Get(0);
    if (graph->tensors() == nullptr || graph->operators() == nullptr || graph->inputs() == nullptr ||
        graph->outputs() == nullptr) {
        return BF_BAD_MODEL;
    }
    const uint32_t tensors = graph->tensors()->size();
    if (!within(graph->inputs(), tensors, 0) || !within(graph->outputs(), tensors, 0)) {
        return BF_BAD_MODEL;
    }
    for (const tflite::Tensor *tensor : *graph->tensors()) {
        if (tensor->buffer() >= file->buffers()->size()) {
            return BF_BAD_MODEL;
        }
    }
    for (const tflite::Operator *node : *graph->operators()) {
        if (node->opcode_index() >= codes->size() || !within(node->inputs(), tensors, -1) ||
            !within(node->outputs(), tensors, 0)) {
            return BF_BAD_MODEL;
        }
        /* Not of every code in the file: converters leave some behind that no operator uses. */
        const TFLMRegistration *registration = nullptr;
        const tflite::OperatorCode *code = codes->Get(node->opcode_index());
        if (tflite::GetRegistrationFromOpCode(code, resolver, &registration) != kTfLiteOk || registration == nullptr) {
            return BF_UNSUPPORTED;
        }
    }
    /* One graph without branches into others: the operators' ticks are counted in the order of this one. */
    return file->subgraphs()->size() == 1 ? BF_OK : BF_UNSUPPORTED;
}

/* As MicroAllocator::Create lays it out: allocator, planner, then the interpreter's data, from the arena's end. */
tflite::MicroAllocator *make_allocator(uint8_t *arena, uint32_t arena_bytes, Arena **made) {
    Arena first(arena, arena_bytes);
    uint8_t *place = first.AllocatePersistentBuffer(sizeof(Arena), alignof(Arena));
    Arena *memory = new (place) Arena(first);
    *made = memory;
    place = memory->AllocatePersistentBuffer(sizeof(tflite::GreedyMemoryPlanner), alignof(tflite::GreedyMemoryPlanner));
    return tflite::MicroAllocator::Create(memory, new (place) tflite::GreedyMemoryPlanner());
}

uint8_t *tensor_bytes(const TfLiteTensor *tensor, uint32_t *bytes) {
    if (tensor == nullptr) {
        *bytes = 0;
        return nullptr;
    }
    *bytes = static_cast<uint32_t>(tensor->bytes);
    return tensor->data.uint8;
}

}  // namespace

extern "C" {

enum bf_status bf_open(const uint8_t *data, uint32_t bytes, uint8_t *arena, uint32_t arena_bytes,
                       struct bf_model *model) {
    /* volatile: written between setjmp and a possible longjmp */
    Arena *volatile memory = nullptr;
    interpreter = nullptr;
    missing = 0;
    *model = {};
    const Resolver *resolver = make_resolver();
    if (resolver == nullptr) {
        return BF_FAILED;
    }
    inside = true;
    if (setjmp(way_out) != 0) {
        inside = false;
        if (missing == 0) {
            return BF_FAILED;
        }
        model->arena_bytes = arena_bytes + static_cast<uint32_t>(missing); /* at least */
        return BF_NO_MEMORY;
    }
    const bf_status status = check(data, bytes, *resolver);
    if (status != BF_OK) {
        inside = false;
        return status;
    }
    const tflite::Model *file = tflite::GetModel(data);
    const tflite::SubGraph *graph = file->subgraphs()->Get(0);
    model->operators = static_cast<uint16_t>(graph->operators()->size());
    model->inputs = static_cast<uint8_t>(graph->inputs()->size());
    model->outputs = static_cast<uint8_t>(graph->outputs()->size());
    Arena *made = nullptr;
    tflite::MicroAllocator *allocator = make_allocator(arena, arena_bytes, &made);
    memory = made;
    profiler = profiler_place.make();
    tflite::MicroInterpreter *made_interpreter =
        interpreter_place.make(file, *resolver, allocator, nullptr, profiler);
    const bool allocated = made_interpreter->AllocateTensors() == kTfLiteOk;
    inside = false;
    if (!allocated) {
        /* The planner works in all of the memory that is left, and refuses without asking for more. */
        if (memory->GetAvailableMemory(1) < kArenaAlignment) {
            model->arena_bytes = arena_bytes + kArenaAlignment;
            return BF_NO_MEMORY;
        }
        return BF_UNSUPPORTED; /* a kernel refused its operator's types or parameters */
    }
    interpreter = made_interpreter;
    operators = model->operators;
    model->arena_bytes = static_cast<uint32_t>(interpreter->arena_used_bytes());
    return BF_OK;
}

uint8_t *bf_input(uint32_t index, uint32_t *bytes) {
    const bool known = interpreter != nullptr && index < interpreter->inputs_size();
    return tensor_bytes(known ? interpreter->input(index) : nullptr, bytes);
}

const uint8_t *bf_output(uint32_t index, uint32_t *bytes) {
    const bool known = interpreter != nullptr && index < interpreter->outputs_size();
    return tensor_bytes(known ? interpreter->output(index) : nullptr, bytes);
}

enum bf_status bf_invoke(int32_t only, uint32_t *ticks, uint32_t count) {
    if (interpreter == nullptr) {
        return BF_NO_MODEL;
    }
    if (only >= 0) {
        return BF_BAD_REQUEST; /* TFLM runs whole graphs only */
    }
    profiler->start(ticks, count);
    inside = true;
    if (setjmp(way_out) != 0) {
        inside = false;
        interpreter = nullptr; /* left in the middle of a kernel: open it again */
        return BF_FAILED;
    }
    const TfLiteStatus status = interpreter->Invoke();
    inside = false;
    if (status != kTfLiteOk) {
        return BF_FAILED;
    }
    /* A library built with BUILD_TYPE=release has no profiler hooks; zeros must not look like times. */
    return ticks != nullptr && profiler->events() != operators ? BF_UNSUPPORTED : BF_OK;
}

/* What the library and the compiler expect of a system. */

/* In place of the library's: its messages have nowhere to go, and formatting them takes newlib's heap. */
void DebugLog(const char *, ...) {}
int DebugVsnprintf(char *buffer, size_t size, const char *, ...) {
    if (size > 0) {
        buffer[0] = 0;
    }
    return 0;
}

[[noreturn]] void abort(void) { leave(); }
[[noreturn]] void __assert_func(const char *, int, const char *, const char *) { leave(); }
[[noreturn]] void __cxa_pure_virtual(void) { leave(); }
void *__dso_handle = nullptr;

}  // extern "C"

/* Deleting destructors stand in tables of virtual functions and are never called. */
void operator delete(void *) noexcept {}
void operator delete(void *, size_t) noexcept {}
