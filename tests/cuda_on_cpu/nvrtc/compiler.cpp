// CUDA_ON_CPU_CXX=g++, CUDA_ON_CPU_FLAGS="-O1", CUDA_ON_CPU_KEEP=folder that keeps the sources and logs
#include "compiler.h"
#include "kernel_source.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <spawn.h>
#include <sstream>
#include <sys/wait.h>
#include <unistd.h>

extern char** environ;

namespace fs = std::filesystem;

namespace {

std::string setting(const char* name, const char* otherwise) {
    const char* text = getenv(name);
    return text && *text ? text : otherwise;
}

fs::path include_folder() {
    Dl_info info;
    dladdr((void*)include_folder, &info);
    return fs::path(info.dli_fname).parent_path().parent_path() / "include";
}

bool write(const fs::path& path, const std::string& text) {
    std::error_code ignored;
    fs::create_directories(path.parent_path(), ignored);
    std::ofstream file(path, std::ios::binary);
    return bool(file << text);
}

std::string read(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
}

struct Folder {
    fs::path path;
    Folder() {
        std::string name = setting("TMPDIR", "/tmp") + "/cuda-on-cpu-XXXXXX";
        if (mkdtemp(name.data())) path = name;
    }
    ~Folder() {
        std::error_code ignored;
        if (!path.empty()) fs::remove_all(path, ignored);
    }
};

// The exit status; 127 where the program cannot be run.
int run(const std::vector<std::string>& words, const fs::path& log) {
    std::vector<char*> argv;
    for (const std::string& word : words) argv.push_back(const_cast<char*>(word.c_str()));
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 1, log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    posix_spawn_file_actions_adddup2(&actions, 1, 2);
    pid_t pid;
    const int failed = posix_spawnp(&pid, argv[0], &actions, nullptr, argv.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    if (failed) return 127;
    int status;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR) return 127;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 126;
}

bool starts_with(const std::string& s, const std::string& start) { return s.compare(0, start.size(), start) == 0; }

// g++'s options for NVRTC's. What has no meaning on the host is left out.
std::vector<std::string> host_options(const std::vector<std::string>& options) {
    std::string standard = "-std=gnu++17", arch = "900";
    std::vector<std::string> rest;
    for (size_t i = 0; i < options.size(); ++i) {
        const std::string& option = options[i];
        const std::string value = option.substr(option.find('=') + 1);
        const bool more = i + 1 < options.size();
        if ((option == "-I" || option == "--include-path") && more) rest.push_back("-I" + options[++i]);
        else if ((option == "-D" || option == "--define-macro") && more) rest.push_back("-D" + options[++i]);
        else if (option.size() > 1 && option[0] == '-' && strchr("IDU", option[1])) rest.push_back(option);
        else if (starts_with(option, "--include-path=")) rest.push_back("-I" + value);
        else if (starts_with(option, "--define-macro=")) rest.push_back("-D" + value);
        else if (starts_with(option, "--std=") || starts_with(option, "-std=")) standard = "-std=gnu" + value.substr(1);
        else if (option.find("arch=") != std::string::npos) arch = option.substr(option.rfind('_') + 1) + "0";
    }
    rest.insert(rest.begin(), {standard, "-D__CUDA_ARCH__=" + arch});
    return rest;
}

}  // namespace

std::string compiler_id() { return setting("CUDA_ON_CPU_CXX", "g++") + " " + setting("CUDA_ON_CPU_FLAGS", "-O1"); }

Compiled compile(const std::string& source, const std::string& name, const Headers& headers,
                 const std::vector<std::string>& options) {
    const Folder folder;
    if (folder.path.empty()) return {false, "cuda-on-cpu: cannot make a temporary folder", ""};
    const fs::path file = folder.path / "kernel.cpp", library = folder.path / "kernel.so", log = folder.path / "log";
    bool written = write(file, "#line 1 \"" + (name.empty() ? "kernel.cu" : name) + "\"\n" + source);
    for (const auto& [header, text] : headers) written = write(folder.path / header, text) && written;
    if (!written) return {false, "cuda-on-cpu: cannot write to " + folder.path.string(), ""};

    std::vector<std::string> words;
    std::istringstream flags(compiler_id());
    for (std::string word; flags >> word;) words.push_back(word);
    // build.py precompiles cuda_on_cpu.h with these. Our headers come before the toolkit's of the same names.
    const fs::path include = include_folder();
    words.insert(words.end(), {"-w", "-fPIC", "-fno-gnu-unique", "-fno-semantic-interposition", "-fno-strict-aliasing",
                               "-ffp-contract=off", "-shared", "-Wl,-Bsymbolic", "-include", include / "cuda_on_cpu.h",
                               "-I" + folder.path.string(), "-I" + include.string()});
    for (const std::string& option : host_options(options)) words.push_back(option);
    words.insert(words.end(), {"-o", library, file});
    const int status = run(words, log);
    Compiled result = {status == 0, read(log), status ? "" : read(library)};
    if (status == 127) result.log = "cuda-on-cpu: cannot run " + words[0] + "\n" + result.log;

    const std::string keep = setting("CUDA_ON_CPU_KEEP", "");
    if (!keep.empty()) {
        const std::string base = keep + "/" + lowered_name(source);
        std::string command;
        for (const std::string& word : words) command += "'" + word + "' ";
        write(base + ".cpp", source);
        write(base + ".log", command + "\n" + result.log);
    }
    return result;
}
