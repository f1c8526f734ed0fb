// Just enough of CUDA to run workers/singular.cu on a CPU: every thread of a block is a fiber, warps take turns, and
// barriers, shuffles and the matrix instruction wait for their lanes. Slow, exact, and it stops where lanes diverge.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define CUDA_ON_CPU
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__
using std::max;
using std::min;

struct double2 { double x, y; };
struct Index { unsigned x, y, z; };
static Index threadIdx, blockIdx;

namespace cuda_on_cpu {

constexpr size_t STACK = 64 << 10;
struct Fiber { ucontext_t first; jmp_buf at; bool started = false, done = false, at_barrier = false; };
struct Warp { int arrived = 0, turn = 0; unsigned long generation = 0; double a[2][32], b[2][32]; int lane_turn[32] = {}; };

static std::vector<Fiber> fibers;
static std::vector<Warp> warps;
static std::unique_ptr<char[]> stacks;
static jmp_buf scheduler;
static int current;
static std::function<void()> body;
static double* shared_memory;

inline void pause() { if (!_setjmp(fibers[current].at)) _longjmp(scheduler, 1); threadIdx.x = current; }

inline void entry()
{
    threadIdx.x = current;
    body();
    fibers[current].done = true;
    _longjmp(scheduler, 1);
}

inline void resume(int thread)
{
    if (_setjmp(scheduler)) return;
    current = thread;
    Fiber& fiber = fibers[thread];
    if (fiber.started) _longjmp(fiber.at, 1);
    fiber.started = true;
    getcontext(&fiber.first);
    fiber.first.uc_stack.ss_sp = stacks.get() + thread * STACK;
    fiber.first.uc_stack.ss_size = STACK;
    fiber.first.uc_link = nullptr;
    makecontext(&fiber.first, entry, 0);
    setcontext(&fiber.first);
}

inline void block_barrier() { fibers[current].at_barrier = true; pause(); }

inline void warp_barrier()
{
    Warp& warp = warps[current / 32];
    unsigned long generation = warp.generation;
    if (++warp.arrived == 32) { warp.arrived = 0; warp.generation++; }
    while (warp.generation == generation) pause();
}

// Publish two numbers, wait for the lanes, and look at all of them; the next exchange uses other places.
inline const Warp& exchange(double a, double b, int& turn)
{
    Warp& warp = warps[current / 32];
    int lane = current % 32;
    turn = warp.lane_turn[lane] ^= 1;
    warp.a[turn][lane] = a;
    warp.b[turn][lane] = b;
    warp_barrier();
    return warp;
}

inline void multiply_add(double2& d, double a, double b)
{
    int turn, lane = current % 32, row = lane / 4, column = lane % 4 * 2;
    const Warp& warp = exchange(a, b, turn);
    for (int k = 0; k < 4; k++) {
        d.x = fma(warp.a[turn][row * 4 + k], warp.b[turn][column * 4 + k], d.x);
        d.y = fma(warp.a[turn][row * 4 + k], warp.b[turn][(column + 1) * 4 + k], d.y);
    }
}

inline void launch(Index grid, int threads, size_t shared_bytes, std::function<void()> kernel)
{
    body = kernel;
    stacks.reset(new char[threads * STACK]);
    std::vector<double> memory(shared_bytes / 8 + 1);
    shared_memory = memory.data();
    for (blockIdx.y = 0; blockIdx.y < grid.y; blockIdx.y++)
        for (blockIdx.x = 0; blockIdx.x < grid.x; blockIdx.x++) {
            std::fill(memory.begin(), memory.end(), NAN);  // nothing may be read before it is written
            fibers.assign(threads, Fiber());
            warps.assign(threads / 32, Warp());
            int alive = threads;
            while (alive > 0) {
                for (int warp = 0; warp < threads / 32; warp++)
                    for (bool busy = true; busy;) {
                        busy = false;
                        for (int lane = 0; lane < 32; lane++) {
                            Fiber& fiber = fibers[warp * 32 + lane];
                            if (fiber.done || fiber.at_barrier) continue;
                            resume(warp * 32 + lane);
                            busy = true;
                        }
                    }
                alive = 0;
                for (Fiber& fiber : fibers) { alive += !fiber.done; fiber.at_barrier = false; }
            }
        }
}

}  // namespace cuda_on_cpu

inline void __syncthreads() { cuda_on_cpu::block_barrier(); }
inline void __syncwarp() { cuda_on_cpu::warp_barrier(); }
inline double __shfl_sync(unsigned, double value, int lane)
{
    int turn;
    return cuda_on_cpu::exchange(value, 0, turn).a[turn][lane & 31];
}
inline double __shfl_xor_sync(unsigned mask, double value, int other)
{
    return __shfl_sync(mask, value, (cuda_on_cpu::current % 32) ^ other);
}
template <class T> T __ldcg(const T* from) { return *from; }
template <class T> void __stcg(T* to, T value) { *to = value; }
inline double rsqrt(double value) { return 1.0 / sqrt(value); }
inline int __double2hiint(double value) { int64_t bits; memcpy(&bits, &value, 8); return (int)(bits >> 32); }
inline double __hiloint2double(int high, int low)
{
    int64_t bits = (int64_t)high << 32 | (uint32_t)low;
    double value;
    memcpy(&value, &bits, 8);
    return value;
}
#define SHARED_MEMORY(name) double* name = cuda_on_cpu::shared_memory
