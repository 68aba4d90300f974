#include "base/shared_library.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <utility>

namespace fourfold::base {

SharedLibrary::SharedLibrary(std::string name)
    : name_(std::move(name)), handle_(dlopen(name_.c_str(), RTLD_NOW | RTLD_LOCAL)) {
  if (handle_ == nullptr) error_ = dlerror();
}

void* SharedLibrary::address_of(const char* symbol) {
  if (handle_ == nullptr) return nullptr;
  void* const found = dlsym(handle_, symbol);
  if (found == nullptr) error_ = fmt::format("{} has no {}", name_, symbol);
  return found;
}

}  // namespace fourfold::base
