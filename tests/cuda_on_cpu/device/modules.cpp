#include "modules.h"
#include "device.h"
#include "grid.h"
#include "guard.h"

#include <atomic>
#include <cstdio>
#include <cstring>
#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

namespace {

constexpr int invalid_image = 200, file_not_found = 301, not_found = 500, unknown = 999;

bool write_all(int fd, const char* bytes, size_t size) {
    while (size) {
        const ssize_t n = write(fd, bytes, size);
        if (n <= 0) return false;
        bytes += n;
        size -= size_t(n);
    }
    return true;
}

// A name for the file that no library was loaded by before: the loader would take it for that library.
std::string fresh_name(int fd) {
    static std::atomic<unsigned> loads{0};
    std::string path = "/proc/self/fd/";
    for (unsigned n = ++loads; n; n /= 2) path += n % 2 ? "./" : ".//";
    return path + std::to_string(fd);
}

int load(Module** made, const char* bytes, size_t size) {
    const int fd = memfd_create("cuda-on-cpu", MFD_CLOEXEC);
    if (fd < 0) return unknown;
    const bool written = write_all(fd, bytes, size);
    void* library = written ? dlopen(fresh_name(fd).c_str(), RTLD_NOW | RTLD_LOCAL) : nullptr;
    close(fd);
    if (!written) return unknown;
    if (!library) {
        fprintf(stderr, "cuda-on-cpu: %s\n", dlerror());
        return invalid_image;
    }
    auto binding = (const emu_binding*)dlsym(library, "emu_module");
    if (!binding || binding->abi != emu_abi) {
        dlclose(library);
        return invalid_image;
    }
    *made = new Module{library, *binding, {}, {}};
    return 0;
}

// A launch that waits for its turn, with the values of its arguments.
struct Queued {
    Function* function;
    uint3 grid, block;
    size_t dynamic_shared;
    std::vector<char> bytes;
    std::vector<void*> arguments;

    int run() {
        const std::string fault =
            run_grid({*function->kernel, function->module->binding, grid, block, dynamic_shared, arguments.data()});
        if (fault.empty()) return 0;
        fprintf(stderr, "cuda-on-cpu: kernel %s: %s\n", function->name.c_str(), fault.c_str());
        return emu_launch_failure;
    }
};

bool is_valid(uint3 grid, uint3 block) {
    const auto count = [](uint3 n) { return uint64_t(n.x) * n.y * n.z; };
    return count(grid) && count(block) && grid.x <= 0x7fffffff && grid.y <= 65535 && grid.z <= 65535 &&
           count(grid) <= 0xffffffff && block.x <= 1024 && block.y <= 1024 && block.z <= 64 && count(block) <= 1024;
}

// What is wrong with a pointer that is passed to a kernel, or null.
const char* fault_of(const void* p) {
    int kind, device;
    if (!p || emu_pointer(p, &kind, &device)) return nullptr;
    if (is_dropped(p)) return "points into memory that was freed";
    if (kind == emu_unregistered) return "points neither into the device's memory nor into pinned memory";
    if (kind == emu_device && device != emu_get_device()) return "points into another device's memory";
    return nullptr;
}

}  // namespace

int load_image(Module** made, const void* image) {
    auto header = (const ElfW(Ehdr)*)image;
    if (memcmp(header->e_ident, ELFMAG, SELFMAG)) return invalid_image;
    // The table of sections comes last.
    return load(made, (const char*)image, header->e_shoff + size_t(header->e_shnum) * header->e_shentsize);
}

int load_file(Module** made, const char* path) {
    FILE* file = fopen(path, "rb");
    if (!file) return file_not_found;
    std::vector<char> bytes;
    char part[1 << 16];
    for (size_t n; (n = fread(part, 1, sizeof part, file)) > 0;) bytes.insert(bytes.end(), part, part + n);
    fclose(file);
    return load(made, bytes.data(), bytes.size());
}

int find_function(Function** found, Module* module, const char* name) {
    auto kernel = (const emu_kernel*)dlsym(module->library, (std::string("emu_kernel_") + name).c_str());
    if (!kernel) return not_found;
    std::lock_guard<std::mutex> lock(module->lock);
    module->functions.push_back(std::make_unique<Function>(Function{module, kernel, name}));
    *found = module->functions.back().get();
    return 0;
}

int find_variable(void** found, size_t* size, Module* module, const char* name) {
    *found = dlsym(module->library, name);
    Dl_info info;
    ElfW(Sym)* symbol = nullptr;
    if (!*found || !dladdr1(*found, &info, (void**)&symbol, RTLD_DL_SYMENT) || !symbol) return not_found;
    *size = symbol->st_size;
    return emu_adopt(*found, *size);
}

int launch(Function* function, uint3 grid, uint3 block, unsigned dynamic_shared, void* stream,
           void** arguments) {
    const emu_kernel& kernel = *function->kernel;
    if (!is_valid(grid, block) || dynamic_shared > unsigned(function->most_dynamic_shared)) return emu_invalid_value;
    auto queued = std::make_unique<Queued>(Queued{function, grid, block, dynamic_shared, {}, {}});
    const auto rounded = [](size_t n) { return (n + 15) / 16 * 16; };
    size_t total = 0;
    for (unsigned i = 0; i < kernel.n; ++i) total += rounded(kernel.sizes[i]);
    queued->bytes.resize(total);
    char* at = queued->bytes.data();
    for (unsigned i = 0; i < kernel.n; at += rounded(kernel.sizes[i++])) {
        memcpy(at, arguments[i], kernel.sizes[i]);
        queued->arguments.push_back(at);
        if (!kernel.is_pointer[i]) continue;
        if (const char* fault = fault_of(*(void**)at)) {
            fprintf(stderr, "cuda-on-cpu: kernel %s: argument %u %s\n", function->name.c_str(), i, fault);
            return emu_illegal_address;
        }
    }
    const std::string name = "kernel " + function->name;
    return emu_enqueue(stream, emu_kernel_work, name.c_str(), [](void* p) { return ((Queued*)p)->run(); },
                       queued.release(), [](void* p) { delete (Queued*)p; });
}
