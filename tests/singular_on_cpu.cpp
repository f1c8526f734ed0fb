// The kernels of workers/singular.cu as functions that Python can call: grid, threads and shared bytes, then arguments.
#include "cuda_on_cpu.h"

#include "../workers/singular.cu"

#define LAUNCH(call) cuda_on_cpu::launch({(unsigned)grid_x, (unsigned)grid_y, 1}, threads, shared, [=] { call; })

extern "C" void run_to_band(
    int grid_x, int grid_y, int threads, int shared, double* base, const int64* jobs, double* bands, int width)
{
    LAUNCH(to_band(base, jobs, bands, width));
}

extern "C" void run_chase(
    int grid_x, int grid_y, int threads, int shared, const double* bands, const int64* jobs, double* out, int width)
{
    LAUNCH(chase(bands, jobs, out, width));
}

extern "C" void run_bisect(
    int grid_x, int grid_y, int threads, int shared, const double* tridiagonals, const int64* jobs, double* values,
    int width, int columns)
{
    LAUNCH(bisect(tridiagonals, jobs, values, width, columns));
}
