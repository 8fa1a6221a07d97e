/* The same arithmetic as a C programmer would write it: one fused loop, vectorised by the compiler and
   shared among threads by OpenMP. Compiled once with REAL=float and once with REAL=double. */

#include <math.h>
#include <stdint.h>

#define SQRT(x) _Generic((x), float: sqrtf, double: sqrt)(x)

void rmsprop(int64_t n, int threads, const REAL *hyper, const REAL *restrict grad,
             REAL *restrict param, REAL *restrict square_avg)
{
    const REAL lr = hyper[0], beta = hyper[1], mix = hyper[2], eps = hyper[3];
#pragma omp parallel for simd num_threads(threads) schedule(static)
    for (int64_t i = 0; i < n; i++) {
        REAL g = grad[i];
        REAL v = beta * square_avg[i] + mix * g * g;
        square_avg[i] = v;
        param[i] -= lr * (g / SQRT(v + eps));
    }
}

void rmsprop_everything(int64_t n, int threads, const REAL *hyper, const REAL *restrict grad,
                        REAL *restrict param, REAL *restrict square_avg, REAL *restrict grad_avg,
                        REAL *restrict momentum_buffer)
{
    const REAL lr = hyper[0], beta = hyper[1], mix = hyper[2], eps = hyper[3];
    const REAL momentum = hyper[4], weight_decay = hyper[5];
#pragma omp parallel for simd num_threads(threads) schedule(static)
    for (int64_t i = 0; i < n; i++) {
        REAL g = grad[i] + weight_decay * param[i];
        REAL v = beta * square_avg[i] + mix * g * g;
        REAL m = beta * grad_avg[i] + mix * g;
        REAL variance = v - m * m;
        if (variance < 0)
            variance = 0;
        REAL b = momentum * momentum_buffer[i] + g / SQRT(variance + eps);
        square_avg[i] = v;
        grad_avg[i] = m;
        momentum_buffer[i] = b;
        param[i] -= lr * b;
    }
}
