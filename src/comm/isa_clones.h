#pragma once

/// Compiles a function for several instruction sets; the loader picks the variant for this
/// processor. For plain loops whose bits do not depend on the width of vectors: the program itself
/// is compiled for the oldest x86-64. What such a function calls has to be inlined into it.
/// ThreadSanitizer is not up yet when the loader picks.
#ifdef __SANITIZE_THREAD__
#define FF_ISA_CLONES
#else
#define FF_ISA_CLONES __attribute__((target_clones("arch=x86-64-v4", "avx2", "default")))
#endif
