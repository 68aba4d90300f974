#pragma once

#include <string>
#include <type_traits>

namespace fourfold::base {

/// A library that is loaded at run time and stays, so that one program runs with and without it.
class SharedLibrary {
 public:
  /// `name`: as dlopen takes it, for example "libnccl.so.2".
  explicit SharedLibrary(std::string name);

  /// Sets a pointer to the function of that name; null where it is missing, which error() tells.
  template <typename Function>
  void find(Function& function, const char* symbol) {
    static_assert(std::is_pointer_v<Function>);
    function = reinterpret_cast<Function>(address_of(symbol));
  }

  /// Why it cannot be used: it was not loaded, or a function is missing; empty: it can.
  const std::string& error() const { return error_; }

 private:
  void* address_of(const char* symbol);

  std::string name_;
  void* handle_;
  std::string error_;
};

}  // namespace fourfold::base
