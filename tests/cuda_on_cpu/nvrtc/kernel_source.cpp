#include "kernel_source.h"

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <cstdio>

namespace {

constexpr size_t none = std::string::npos;

bool is_name(char c) { return isalnum((unsigned char)c) || c == '_'; }
bool is_space(char c) { return isspace((unsigned char)c); }

// The end of the comment or literal that starts at i, or i.
size_t skip_literal(const std::string& s, size_t i) {
    if (s.compare(i, 2, "//") == 0) return std::min(s.find('\n', i), s.size());
    if (s.compare(i, 2, "/*") == 0) {
        const size_t end = s.find("*/", i + 2);
        return end == none ? s.size() : end + 2;
    }
    const bool digit_before = i && isdigit((unsigned char)s[i - 1]);  // 1'000 has no literal
    if (s[i] != '"' && (s[i] != '\'' || digit_before)) return i;
    const char quote = s[i];
    for (++i; i < s.size() && s[i] != quote && s[i] != '\n'; ++i)
        if (s[i] == '\\') ++i;
    return std::min(i + 1, s.size());
}

size_t skip_name(const std::string& s, size_t i) {
    while (i < s.size() && is_name(s[i])) ++i;
    return i;
}

size_t skip_space(const std::string& s, size_t i) {
    while (i < s.size() && (is_space(s[i]) || s[i] == '\\')) ++i;
    return i;
}

// The end of the bracket that opens at i, or none.
size_t skip_bracket(const std::string& s, size_t i) {
    const char open = s[i], close = open == '(' ? ')' : '}';
    int depth = 0;
    while (i < s.size()) {
        const size_t end = skip_literal(s, i);
        if (end != i) {
            i = end;
            continue;
        }
        if (s[i] == open) ++depth;
        if (s[i] == close && --depth == 0) return i + 1;
        ++i;
    }
    return none;
}

struct Kernel {
    std::string name;
    size_t body, end;
};

// The kernel whose __global__ ends at i; false for a declaration.
bool find_kernel(const std::string& s, size_t i, Kernel& kernel) {
    while (i < s.size() && s[i] != ';' && s[i] != '{') {
        const size_t end = skip_literal(s, i);
        if (end != i) {
            i = end;
        } else if (is_name(s[i])) {
            const size_t stop = skip_name(s, i);
            kernel.name = s.substr(i, stop - i);
            i = stop;
        } else if (s[i] == '(') {
            const std::string& name = kernel.name;
            const bool attribute = name == "__launch_bounds__" || name == "__attribute__" || name == "__cluster_dims__";
            i = skip_bracket(s, i);
            if (i == none) return false;
            if (attribute) continue;
            kernel.body = skip_space(s, i);
            if (kernel.body >= s.size() || s[kernel.body] != '{') return false;
            kernel.end = skip_bracket(s, kernel.body);
            return kernel.end != none;
        } else {
            ++i;
        }
    }
    return false;
}

// For `extern __shared__ T name[]` from i on, what stands for it; `end` is where it ends.
std::string dynamic_shared(const std::string& s, size_t i, size_t& end) {
    const std::string shared = "__shared__";
    i = skip_space(s, i);
    if (s.compare(i, shared.size(), shared) != 0) return "";
    end = s.find(';', i);
    const size_t bracket = s.find('[', i);
    if (end == none || bracket > end) return "";
    size_t last = bracket;
    while (is_space(s[last - 1])) --last;
    size_t first = last;
    while (is_name(s[first - 1])) --first;
    std::string type = s.substr(i + shared.size(), first - i - shared.size());
    for (size_t at; (at = type.find("__align__")) != none;) {
        const size_t stop = skip_bracket(type, std::min(type.find('(', at), type.size() - 1));
        type.erase(at, stop == none ? none : stop - at);
    }
    return type + "* const " + s.substr(first, last - first) + " = (" + type + "*)emu_service->dynamic_shared()";
}

std::string with_entries(const std::string& s) {
    std::string out;
    size_t copied = 0;
    bool is_template = false;
    const auto replace = [&](size_t from, size_t to, const std::string& text) {
        out += s.substr(copied, from - copied) + text;
        return copied = to;
    };
    for (size_t i = 0; i < s.size();) {
        const size_t behind = skip_literal(s, i);
        if (behind != i) {
            i = behind;
            continue;
        }
        if (!is_name(s[i])) {
            if (s[i] == ';' || s[i] == '}' || s[i] == '{') is_template = false;
            ++i;
            continue;
        }
        const size_t end = skip_name(s, i);
        const std::string word = s.substr(i, end - i);
        Kernel kernel;
        size_t stop = end;
        if (word == "template") {
            is_template = true;
        } else if (word == "extern") {
            const std::string pointer = dynamic_shared(s, end, stop);
            if (pointer.empty()) stop = end;
            else replace(i, stop, pointer);
        } else if (word == "__global__" && !is_template && find_kernel(s, end, kernel)) {
            const std::string body = with_entries(s.substr(kernel.body, kernel.end - kernel.body));
            stop = replace(kernel.body, kernel.end, body + " EMU_KERNEL(" + kernel.name + ")");
        }
        i = stop;
    }
    return out + s.substr(copied);
}

}  // namespace

std::string lowered_name(const std::string& expression) {
    uint64_t hash = 1469598103934665603u;  // FNV-1a
    for (const char c : expression) hash = (hash ^ (unsigned char)c) * 1099511628211u;
    char text[32];
    snprintf(text, sizeof text, "x%016llx", (unsigned long long)hash);
    return text;
}

std::string host_source(const std::string& source, const std::map<std::string, std::string>& expressions) {
    std::string out = with_entries(source);
    for (const auto& [expression, name] : expressions) out += "\nEMU_NAMED(" + name + ", " + expression + ")";
    return out + "\n";
}
