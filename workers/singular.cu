// Singular values of many small matrices: eigenvalues of their float64 Gram matrices, one block of threads a matrix.
//
//   to_band      symmetric -> band of 8 subdiagonals, by Householder panels of 8 columns. One pass over the matrix a
//                panel applies the previous panel's update and multiplies with the new reflectors on the way, in 8 x 8
//                tiles on the float64 tensor cores.
//   chase        band -> tridiagonal, in shared memory: one warp chases the bulge of one column, many columns follow
//                one another at a distance of two steps.
//   bisect       eigenvalues of the tridiagonal matrix, each by its own thread: sign changes of the Sturm sequence.
//
// Sizes are padded with zeros to multiples of 8. A job is three numbers: where its matrix starts, in doubles from
// ``base`` (an address would do, but of a generic one the compiler fears that it lies in shared memory: three times
// slower), its padded size n, and the count of values wanted. Nothing loops until something converges, so NaN ends too.
// tests/cuda_on_cpu.h runs this very file on a CPU.

// REDUCE_THREADS, ROWS, OWN, GROUP, BLOCKS and CHASE_WARPS are set for a range of sizes when this is compiled; what they
// mean is in workers/singular.py.

#define BAND 8
#define REDUCE_WARPS (REDUCE_THREADS / 32)  // ROWS of a panel are held by a thread: sizes up to 8 + ROWS * REDUCE_THREADS
#define COLUMN 19  // doubles a column in `chase`: 16 diagonals, and few bank conflicts between the lanes of a tile
#define SWEEPS 64  // ring of reflectors; at most n / 15 + 1 columns are under way
#define BISECT_THREADS 128
#define TINY 1e-280  // squared; a column this short is zero: the matrices are scaled to about one
#define FULL 0xffffffffu
#ifndef SHARED_MEMORY
#define SHARED_MEMORY(name) extern __shared__ __align__(16) double name[]
#endif

typedef long long int64;

// Of a panel's column in shared memory: free of bank conflicts, and eight of them hold 64 sums of each warp.
__device__ __forceinline__ int column_stride(int n) { return (max(n, 8 * REDUCE_WARPS) + 15) / 16 * 16 + 4; }

// d (8 x 8) += a (8 x 4) b (4 x 8). Lane l holds a[l / 4][l % 4], b[l % 4][l / 4], d[l / 4][2 (l % 4) + {0, 1}].
__device__ __forceinline__ void multiply_add(double2& d, double a, double b)
{
#ifdef CUDA_ON_CPU
    cuda_on_cpu::multiply_add(d, a, b);
#else
    asm volatile("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0,%1}, {%2}, {%3}, {%0,%1};"
                 : "+d"(d.x), "+d"(d.y) : "d"(a), "d"(b));
#endif
}

// d (8 x 8, held as above) with rows along the lanes: lane l gets d[l % 4][l / 4] and d[4 + l % 4][l / 4].
__device__ __forceinline__ double2 transposed(double2 d, int lane)
{
    const int odd = lane >> 2 & 1, low = 4 * (lane & 3) + (lane >> 3), upper = lane >> 4;
    const double first = __shfl_sync(FULL, upper ? d.y : d.x, odd ? low + 16 : low);
    const double second = __shfl_sync(FULL, upper ? d.x : d.y, odd ? low : low + 16);
    return odd ? double2{second, first} : double2{first, second};
}

// Tiles pass the first cache by: each is read once. Written as one access, which assignment to a double2 is not always.
__device__ __forceinline__ double2 load(const double* from) { return __ldcg((const double2*)from); }
__device__ __forceinline__ void store(double* to, double2 pair) { __stcg((double2*)to, pair); }

// Sum of eight numbers a lane over the warp: value v is left in the four lanes 4 v .. 4 v + 3.
__device__ __forceinline__ double sum_eight(const double (&value)[8], int lane)
{
    double four[4], two[2], one;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        double keep = lane & 16 ? value[i + 4] : value[i], give = lane & 16 ? value[i] : value[i + 4];
        four[i] = keep + __shfl_xor_sync(FULL, give, 16);
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        double keep = lane & 8 ? four[i + 2] : four[i], give = lane & 8 ? four[i] : four[i + 2];
        two[i] = keep + __shfl_xor_sync(FULL, give, 8);
    }
    double keep = lane & 4 ? two[1] : two[0], give = lane & 4 ? two[0] : two[1];
    one = keep + __shfl_xor_sync(FULL, give, 4);
    one += __shfl_xor_sync(FULL, one, 2);
    return one + __shfl_xor_sync(FULL, one, 1);
}

// Householder reflector I - tau u u^T of (alpha, rest), u[0] = 1, u[i] = scale * rest[i]; the vector becomes (beta, 0).
struct Reflector {
    double beta, tau, scale;
};

__device__ __forceinline__ Reflector reflector(double alpha, double squares_of_rest)
{
    if (!(squares_of_rest > TINY)) return {alpha, 0.0, 0.0};
    double squares = alpha * alpha + squares_of_rest, inverse = rsqrt(squares), length = squares * inverse;
    return {-copysign(length, alpha), 1.0 + fabs(alpha) * inverse, 1.0 / (alpha + copysign(length, alpha))};
}

// Rows ``first`` .. n of the panel in ``panel`` (column-major) become reflectors, below the diagonal and with ones on
// it; R goes to the band, ``t`` becomes the upper triangular T of Q = I - V T V^T.
__device__ __forceinline__ void factor_panel(
    double* panel, int stride, int first, int n, double* sums, double* t, double* band, int width)
{
    const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5;
    double x[ROWS][BAND], t_row[BAND];
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        int row = first + tid + i * REDUCE_THREADS;
#pragma unroll
        for (int c = 0; c < BAND; c++) x[i][c] = row < n ? panel[c * stride + row] : 0.0;
    }
#pragma unroll
    for (int j = 0; j < BAND; j++) {
        double part[BAND];
        double* slot = sums + (j & 1) * (REDUCE_WARPS + 1) * BAND;  // two in turn, so that one barrier a column is enough
#pragma unroll
        for (int c = 0; c < BAND; c++) part[c] = tid > j ? x[0][j] * x[0][c] : 0.0;
#pragma unroll
        for (int i = 1; i < ROWS; i++)
#pragma unroll
            for (int c = 0; c < BAND; c++) part[c] += x[i][j] * x[i][c];
        double summed = sum_eight(part, lane);
        if ((lane & 3) == 0) slot[warp * BAND + (lane >> 2)] = summed;
        if (tid == j) {
#pragma unroll
            for (int c = 0; c < BAND; c++) slot[REDUCE_WARPS * BAND + c] = x[0][c];
        }
        __syncthreads();
        double total = 0.0;
#pragma unroll
        for (int w = 0; w < REDUCE_WARPS; w += 4) total += slot[(w + (lane & 3)) * BAND + (lane >> 2)];
        total += __shfl_xor_sync(FULL, total, 1);
        total += __shfl_xor_sync(FULL, total, 2);
        double pivot = slot[REDUCE_WARPS * BAND + (lane >> 2)];
        Reflector h = reflector(__shfl_sync(FULL, pivot, 4 * j), __shfl_sync(FULL, total, 4 * j));
        double inner = pivot + h.scale * total, g[BAND];  // v_j . column c, of which the first j are reflectors already
#pragma unroll
        for (int c = 0; c < BAND; c++) g[c] = __shfl_sync(FULL, inner, 4 * c);
        double sum = 0.0;
#pragma unroll
        for (int i = 0; i < j; i++) sum += t_row[i] * g[i];
        t_row[j] = tid < j ? -h.tau * sum : tid == j ? h.tau : 0.0;
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            bool below = i > 0 || tid > j;
            double v = below ? x[i][j] * h.scale : i == 0 && tid == j ? 1.0 : 0.0;
#pragma unroll
            for (int c = j + 1; c < BAND; c++) x[i][c] -= h.tau * g[c] * v;
            if (below) x[i][j] = v;
            else if (i == 0 && tid == j) x[0][j] = h.beta;
        }
    }
    if (tid < BAND) {  // the row of R, then the row of V
#pragma unroll
        for (int c = 0; c < BAND; c++) {
            if (c >= tid) {
                band[(BAND + tid - c) * width + first - BAND + c] = x[0][c];
                x[0][c] = c == tid ? 1.0 : 0.0;
            }
            t[tid * BAND + c] = t_row[c];
        }
    }
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        int row = first + tid + i * REDUCE_THREADS;
        if (row < n) {
#pragma unroll
            for (int c = 0; c < BAND; c++) panel[c * stride + row] = x[i][c];
        }
    }
}

// One 8 x 8 tile of A - V W^T - W V^T. ``minus_v``, ``minus_w``: the rows' fragments, negated; ``column``: first of J.
__device__ __forceinline__ void update_tile(
    double2& tile, const double* v, const double* w, int stride, int column, const double (&minus_v)[2],
    const double (&minus_w)[2], int lane)
{
    const int at = (lane & 3) * stride + column + (lane >> 2);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        multiply_add(tile, minus_v[half], w[at + 4 * half * stride]);
        multiply_add(tile, minus_w[half], v[at + 4 * half * stride]);
    }
}

__device__ __forceinline__ void negated_rows(double (&minus)[2], const double* from, int stride, int row, int lane)
{
#pragma unroll
    for (int half = 0; half < 2; half++) minus[half] = -from[((lane & 3) + 4 * half) * stride + row + (lane >> 2)];
}

// The jobs' matrices are destroyed; only their lower halves are read. bands: (jobs, 9, width), diagonal by diagonal.
extern "C" __global__ void __launch_bounds__(REDUCE_THREADS, BLOCKS)
to_band(double* base, const int64* jobs, double* bands, int width)
{
    SHARED_MEMORY(shared);
    double* a = base + jobs[3 * blockIdx.x];
    const int n = (int)jobs[3 * blockIdx.x + 1], stride = column_stride(n);
    double* band = bands + (int64)blockIdx.x * (BAND + 1) * width;
    const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5, r = lane >> 2, q = lane & 3;
    double *v = shared, *w = v + BAND * stride, *x = w + BAND * stride, *sums = x + BAND * stride;
    double *t = sums + 2 * (REDUCE_WARPS + 1) * BAND, *m = t + BAND * BAND, *u = m + BAND * BAND;
    double* parts = u + BAND * BAND;

    for (int start = 0; start < n; start += BAND) {
        const int first = start + BAND;  // rows and columns from here on remain
        // The panel's columns as the previous update leaves them.
#pragma unroll 4
        for (int row = start + BAND * warp; row < n; row += BAND * REDUCE_WARPS) {
            double2 tile = load(a + (int64)(row + r) * n + start + 2 * q);
            if (start > 0) {
                double minus_v[2], minus_w[2];
                negated_rows(minus_v, v, stride, row, lane);
                negated_rows(minus_w, w, stride, row, lane);
                update_tile(tile, v, w, stride, start, minus_v, minus_w, lane);
            }
            x[2 * q * stride + row + r] = tile.x;
            x[(2 * q + 1) * stride + row + r] = tile.y;
        }
        __syncthreads();
        if (tid < BAND * BAND && tid / BAND >= tid % BAND)
            band[(tid / BAND - tid % BAND) * width + start + tid % BAND] = x[tid % BAND * stride + start + tid / BAND];
        if (first >= n) return;
        factor_panel(x, stride, first, n, sums, t, band, width);
        __syncthreads();

        // Update the rest and multiply it with the new reflectors. Only the lower half is read and written. A warp owns
        // every REDUCE_WARPS-th column of tiles, whose part of the product it keeps; what a row of tiles adds to its own
        // rows is summed over the warps, a group of rows at a time, and takes the panel's place.
        const int blocks = (n - first) / BAND;
        double2 tiles[OWN], next[OWN], owned[OWN];
#pragma unroll
        for (int i = 0; i < OWN; i++) {
            owned[i] = {0.0, 0.0};
            if (warp + i * REDUCE_WARPS == 0) next[i] = load(a + (int64)(first + r) * n + first + 2 * q);
        }
        for (int group = 0; group < blocks; group += GROUP) {
            double* part = parts + (group / GROUP & 1) * GROUP * REDUCE_WARPS * BAND * BAND;
            for (int block = group; block < min(group + GROUP, blocks); block++) {
                const int row = first + block * BAND;
                double* line = a + (int64)(row + r) * n + first + 2 * q;
                double2 product = {0.0, 0.0};
#pragma unroll
                for (int i = 0; i < OWN; i++) {
                    const int column = warp + i * REDUCE_WARPS;
                    tiles[i] = next[i];
                    if (column <= block + 1 && block + 1 < blocks)
                        next[i] = load(line + (int64)BAND * n + column * BAND);
                }
                if (warp <= block) {
                    double minus_v[2], minus_w[2];
                    negated_rows(minus_v, v, stride, row, lane);
                    negated_rows(minus_w, w, stride, row, lane);
                    const double low = x[r * stride + row + q], high = x[r * stride + row + q + 4];
#pragma unroll
                    for (int i = 0; i < OWN; i++) {
                        const int column = warp + i * REDUCE_WARPS;
                        if (column > block) break;
                        double2 tile = tiles[i];
                        if (start > 0) {
                            update_tile(tile, v, w, stride, first + column * BAND, minus_v, minus_w, lane);
                            store(line + column * BAND, tile);
                        }
                        const double2 reflected = *(const double2*)(x + r * stride + first + column * BAND + 2 * q);
                        multiply_add(product, tile.x, reflected.x);
                        multiply_add(product, tile.y, reflected.y);
                        if (column < block) {
                            const double2 turned = transposed(tile, lane);
                            multiply_add(owned[i], turned.x, low);
                            multiply_add(owned[i], turned.y, high);
                        }
                    }
                }
                *(double2*)(part + ((block - group) * REDUCE_WARPS + warp) * BAND * BAND + r * BAND + 2 * q) = product;
            }
            __syncthreads();
            for (int i = tid; i < min(GROUP, blocks - group) * BAND * BAND; i += REDUCE_THREADS) {
                const double* from = part + i / (BAND * BAND) * REDUCE_WARPS * BAND * BAND + i % (BAND * BAND);
                double sum = 0.0;
#pragma unroll
                for (int k = 0; k < REDUCE_WARPS; k++) sum += from[k * BAND * BAND];
                a[(int64)(first + group * BAND + i / BAND) * n + start + i % BAND] = sum;
            }
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < OWN; i++) {
            const int column = warp + i * REDUCE_WARPS;
            if (column >= blocks) break;
            double* place = a + (int64)(first + column * BAND + r) * n + start + 2 * q;
            const double2 sum = load(place);
            store(place, {sum.x + owned[i].x, sum.y + owned[i].y});
        }
        __syncthreads();

        // W = Z T - V M / 2 with M = T^T (V^T Z) T; Z lands where the old V was.
        for (int row = first + tid; row < n; row += REDUCE_THREADS) {
            const double* from = a + (int64)row * n + start;
#pragma unroll
            for (int c = 0; c < BAND / 2; c++) {
                double2 pair = load(from + 2 * c);
                v[2 * c * stride + row] = pair.x;
                v[(2 * c + 1) * stride + row] = pair.y;
            }
        }
        __syncthreads();
        double2 part = {0.0, 0.0};
        for (int row = first + 4 * warp; row < n; row += 4 * REDUCE_WARPS)
            multiply_add(part, x[r * stride + row + q], v[r * stride + row + q]);
        *(double2*)(w + warp * BAND * BAND + r * BAND + 2 * q) = part;
        __syncthreads();
        if (warp == 0) {
            double s[2];
#pragma unroll
            for (int e = 0; e < 2; e++) {
                s[e] = 0.0;
                for (int k = 0; k < REDUCE_WARPS; k++) s[e] += w[k * BAND * BAND + lane + 32 * e];
            }
            __syncwarp();
            m[lane] = s[0];
            m[lane + 32] = s[1];
            __syncwarp();
#pragma unroll
            for (int e = 0; e < 2; e++) {  // u = (V^T Z) T
                int i = (lane + 32 * e) / BAND, c = lane % BAND;
                s[e] = 0.0;
                for (int k = 0; k < BAND; k++) s[e] += m[i * BAND + k] * t[k * BAND + c];
                u[i * BAND + c] = s[e];
            }
            __syncwarp();
#pragma unroll
            for (int e = 0; e < 2; e++) {
                int i = (lane + 32 * e) / BAND, c = lane % BAND;
                s[e] = 0.0;
                for (int k = 0; k < BAND; k++) s[e] += t[k * BAND + i] * u[k * BAND + c];
                m[i * BAND + c] = 0.5 * s[e];
            }
        }
        __syncthreads();
        for (int row = first + tid; row < n; row += REDUCE_THREADS) {
            double z[BAND], y[BAND];
#pragma unroll
            for (int c = 0; c < BAND; c++) z[c] = v[c * stride + row];
#pragma unroll
            for (int c = 0; c < BAND; c++) {
                y[c] = 0.0;
#pragma unroll
                for (int k = 0; k <= c; k++) y[c] += z[k] * t[k * BAND + c];
            }
#pragma unroll
            for (int k = 0; k < BAND; k++) {
                double reflected = x[k * stride + row];
#pragma unroll
                for (int c = 0; c < BAND; c++) y[c] -= reflected * m[k * BAND + c];
            }
#pragma unroll
            for (int c = 0; c < BAND; c++) v[c * stride + row] = y[c];
        }
        __syncthreads();
        double* free_buffer = w;
        w = v;
        v = x;
        x = free_buffer;
    }
}

// Step k of sweep s: the reflector of the step before meets block (rows, columns) from the right; a new one clears the
// block's first column below its head and is applied to the diagonal block from both sides. Products with vectors on the
// matrix unit, which need no shuffles, were slower (docs/performance.md).
__device__ __forceinline__ void chase_step(double* ab, double* ring, int sweep, int step, int lane)
{
    const int r = lane >> 2, q = lane & 3, top = sweep + 1 + step * BAND;
    double* kept = ring + (sweep % SWEEPS) * (BAND + 1);  // reflector, then its tau
    double head;  // of row r: the column that is cleared
    double2 block = {0.0, 0.0};
    double* at = ab + (top - BAND + 2 * q) * COLUMN + BAND + r - 2 * q;
    if (step > 0) {
        block = {at[0], at[COLUMN - 1]};
        double v0 = kept[2 * q], v1 = kept[2 * q + 1], tau = kept[BAND];
        double sum = block.x * v0 + block.y * v1;
        sum += __shfl_xor_sync(FULL, sum, 1);
        sum += __shfl_xor_sync(FULL, sum, 2);
        sum *= tau;
        block.x -= sum * v0;
        block.y -= sum * v1;
        head = __shfl_sync(FULL, block.x, lane & ~3);
    } else {
        head = ab[sweep * COLUMN + 1 + r];
    }
    double squares = r > 0 ? head * head : 0.0;
    squares += __shfl_xor_sync(FULL, squares, 4);
    squares += __shfl_xor_sync(FULL, squares, 8);
    squares += __shfl_xor_sync(FULL, squares, 16);
    Reflector h = reflector(__shfl_sync(FULL, head, 0), squares);
    double mine = r == 0 ? 1.0 : head * h.scale;
    double u0 = __shfl_sync(FULL, mine, 8 * q), u1 = __shfl_sync(FULL, mine, 8 * q + 4);
    // The diagonal block's product and the block's own from the left, side by side.
    double* diagonal0 = r >= 2 * q ? ab + (top + 2 * q) * COLUMN + r - 2 * q : ab + (top + r) * COLUMN + 2 * q - r;
    double* diagonal1 =
        r >= 2 * q + 1 ? ab + (top + 2 * q + 1) * COLUMN + r - 2 * q - 1 : ab + (top + r) * COLUMN + 2 * q + 1 - r;
    double2 d = {*diagonal0, *diagonal1};
    double p = d.x * u0 + d.y * u1;
    double z0 = mine * block.x, z1 = mine * block.y;
    p += __shfl_xor_sync(FULL, p, 1);
    z0 += __shfl_xor_sync(FULL, z0, 4);
    z1 += __shfl_xor_sync(FULL, z1, 4);
    p += __shfl_xor_sync(FULL, p, 2);
    z0 += __shfl_xor_sync(FULL, z0, 8);
    z1 += __shfl_xor_sync(FULL, z1, 8);
    p *= h.tau;
    double inner = p * mine;
    inner += __shfl_xor_sync(FULL, inner, 4);
    z0 += __shfl_xor_sync(FULL, z0, 16);
    z1 += __shfl_xor_sync(FULL, z1, 16);
    inner += __shfl_xor_sync(FULL, inner, 8);
    inner += __shfl_xor_sync(FULL, inner, 16);
    double w = p - 0.5 * h.tau * inner * mine;
    double w0 = __shfl_sync(FULL, w, 8 * q), w1 = __shfl_sync(FULL, w, 8 * q + 4);
    __syncwarp();
    if (step > 0) {
        block.x -= h.tau * mine * z0;
        block.y -= h.tau * mine * z1;
        if (q == 0) block.x = r == 0 ? h.beta : 0.0;
        at[0] = block.x;
        at[COLUMN - 1] = block.y;
    } else if (q == 0) {
        ab[sweep * COLUMN + 1 + r] = r == 0 ? h.beta : 0.0;
    }
    if (r >= 2 * q) *diagonal0 = d.x - mine * w0 - w * u0;
    if (r >= 2 * q + 1) *diagonal1 = d.y - mine * w1 - w * u1;
    if (q == 0) kept[r] = mine;
    if (lane == 0) kept[BAND] = h.tau;
}

// bands: (jobs, 9, width) -> tridiagonals: (jobs, 2, width), diagonal and subdiagonal.
extern "C" __global__ void __launch_bounds__(32 * CHASE_WARPS, 32 / CHASE_WARPS)
chase(const double* bands, const int64* jobs, double* tridiagonals, int width)
{
    SHARED_MEMORY(shared);
    const int n = (int)jobs[3 * blockIdx.x + 1], tid = threadIdx.x, warp = tid >> 5, lane = tid & 31;
    double *ab = shared, *ring = ab + (n + 2 * BAND) * COLUMN;
    const double* band = bands + (int64)blockIdx.x * (BAND + 1) * width;
    for (int i = tid; i < (n + 2 * BAND) * COLUMN; i += 32 * CHASE_WARPS) ab[i] = 0.0;
    __syncthreads();
    for (int d = 0; d <= BAND; d++)
        for (int j = tid; j < n - d; j += 32 * CHASE_WARPS) ab[j * COLUMN + d] = band[d * width + j];
    __syncthreads();
    for (int time = 0; time <= 2 * (n - 3); time++) {
        // Sweep s is at step time - 2 s, whose first row s + 1 + 8 (time - 2 s) must be inside.
        int last = min(time / 2, n - 3), low = max(0, (8 * time - n + 2 + 14) / 15);
        for (int sweep = low + (warp - low % CHASE_WARPS + CHASE_WARPS) % CHASE_WARPS; sweep <= last; sweep += CHASE_WARPS)
            chase_step(ab, ring, sweep, time - 2 * sweep, lane);
        __syncthreads();
    }
    double* out = tridiagonals + (int64)blockIdx.x * 2 * width;
    for (int i = tid; i < n; i += 32 * CHASE_WARPS) {
        out[i] = ab[i * COLUMN];
        out[width + i] = i + 1 < n ? ab[i * COLUMN + 1] : 0.0;
    }
}

// How many eigenvalues lie below x: sign changes of the leading principal minors of (T - x), rescaled every 8 rows.
// rows: (diagonal, squared subdiagonal to the row before), n of them, a multiple of 8.
__device__ __forceinline__ int count_below(const double2* rows, int n, double x)
{
    double before = 0.0, now = 1.0;
    int changes = 0;
    for (int i = 0; i < n; i += 8) {
#pragma unroll
        for (int k = 0; k < 8; k++) {
            double2 row = rows[i + k];
            double next = (row.x - x) * now - row.y * before;
            changes += (unsigned)(__double2hiint(next) ^ __double2hiint(now)) >> 31;
            before = now;
            now = next;
        }
        int exponent = max(__double2hiint(now) & 0x7ff00000, __double2hiint(before) & 0x7ff00000);
        double scale = __hiloint2double(0x7fe00000 - exponent, 0);
        now *= scale;
        before *= scale;
    }
    return changes;
}

// tridiagonals: (jobs, 2, width) -> values: (jobs, columns), roots of the eigenvalues, largest first; below 2^-56 of
// the largest possible they are 0. grid: (jobs, ceil(columns / threads)).
extern "C" __global__ void __launch_bounds__(BISECT_THREADS)
bisect(const double* tridiagonals, const int64* jobs, double* values, int width, int columns)
{
    SHARED_MEMORY(shared);
    const int n = (int)jobs[3 * blockIdx.x + 1], wanted = (int)jobs[3 * blockIdx.x + 2], tid = threadIdx.x;
    if ((int)blockIdx.y * BISECT_THREADS >= wanted) return;
    double2* rows = (double2*)shared;
    double* bounds = shared + 2 * n;
    int* counts = (int*)(bounds + BISECT_THREADS);
    const double *diagonal = tridiagonals + (int64)blockIdx.x * 2 * width, *below = diagonal + width;
    double bound = 0.0;
    bool broken = false;
    for (int i = tid; i < n; i += BISECT_THREADS) {
        double left = i > 0 ? below[i - 1] : 0.0, reach = fabs(diagonal[i]) + fabs(left) + fabs(below[i]);
        rows[i] = {diagonal[i], left};
        bound = fmax(bound, reach);
        broken |= !(reach < 1e300);
    }
    bounds[tid] = broken ? 1e308 : bound;
    __syncthreads();
    for (int i = 0; i < BISECT_THREADS; i++) bound = fmax(bound, bounds[i]);
    const int place = blockIdx.y * BISECT_THREADS + tid;
    double* out = values + (int64)blockIdx.x * columns + place;
    if (!(bound > 0.0) || bound > 1e300) {
        if (place < wanted) *out = bound > 0.0 ? __hiloint2double(0x7ff80000, 0) : 0.0;
        return;
    }
    double inverse = 1.0 / bound;
    for (int i = tid; i < n; i += BISECT_THREADS) {
        double left = rows[i].y * inverse;
        rows[i] = {rows[i].x * inverse, fmax(left * left, 1e-36)};
    }
    __syncthreads();
    bounds[tid] = exp2(-56.0 + 56.5 * tid / (BISECT_THREADS - 1));
    counts[tid] = count_below(rows, n, bounds[tid]);
    __syncthreads();
    if (place >= wanted) return;
    const int index = n - 1 - place;  // ascending
    if (counts[0] > index) {
        *out = 0.0;
        return;
    }
    int low = 0, high = BISECT_THREADS - 1;  // eigenvalue ``index`` lies between these bounds
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (counts[middle] > index) high = middle;
        else low = middle;
    }
    double least = bounds[low], most = bounds[high];
    for (int pass = 0; pass < 40 && most - least > 6e-11 * most; pass++) {
        double middle = 0.5 * (least + most);
        if (count_below(rows, n, middle) > index) most = middle;
        else least = middle;
    }
    *out = sqrt(0.5 * (least + most) * bound);
}
