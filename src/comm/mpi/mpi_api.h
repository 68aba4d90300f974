#pragma once

// The C API only: the C++ bindings left the standard with MPI 3 and would have to be linked.
#define OMPI_SKIP_MPICXX 1
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>
