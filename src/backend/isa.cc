#include <asm/prctl.h>
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <string>

#include "backend/ops.h"

#ifndef ARCH_REQ_XCOMP_PERM
#define ARCH_REQ_XCOMP_PERM 0x1023
#endif

namespace fourfold::backend {
namespace {

constexpr std::array kIsas = {Isa::kAvx2, Isa::kAvx512Bf16, Isa::kAmx};

/// Without the kernel's leave the first tile instruction is SIGILL. The leave is for the process,
/// and threads started earlier have it too, but the kernel wants to be asked before a signal stack
/// exists that is too small; so the factory asks, before any rank's thread.
bool request_amx_state() {
  constexpr long kXfeatureXtileData = 18;
  return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, kXfeatureXtileData) == 0;
}

bool has_amx() {
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return false;
  constexpr unsigned kAmxBf16 = 1u << 22;
  constexpr unsigned kAmxTile = 1u << 24;
  return (edx & kAmxBf16) != 0 && (edx & kAmxTile) != 0 && request_amx_state();
}

// The builtins also ask XGETBV whether the kernel saves the registers.
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

bool has_avx512_bf16() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bf16");
}

base::Result<Isa> strongest_isa() {
  if (!has_avx2()) {
    return base::fail(
        "this processor has no AVX2 and FMA, which the cpu backend needs; "
        "use the reference backend");
  }
  if (!has_avx512_bf16()) return Isa::kAvx2;
  return has_amx() ? Isa::kAmx : Isa::kAvx512Bf16;
}

}  // namespace

std::string_view name_of(Isa isa) {
  switch (isa) {
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512Bf16:
      return "avx512_bf16";
    case Isa::kAmx:
      return "amx";
  }
  return "?";
}

base::Result<Isa> detect_isa() {
  static const base::Result<Isa> isa = strongest_isa();
  return isa;
}

base::Result<Isa> parse_isa(std::string_view name) {
  FF_ASSIGN(const Isa strongest, detect_isa());
  std::string available;
  for (const Isa isa : kIsas) {
    if (isa > strongest) break;
    if (name == name_of(isa)) return isa;
    if (!available.empty()) available += ", ";
    available += name_of(isa);
  }
  return base::fail("instruction set '{}' is not available; this machine can run: {}", name,
                    available);
}

}  // namespace fourfold::backend
