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

/* What memory allows: the gradient is read, 1 to 4 other arrays are read and written, as in a step, with
   no root and no division. With keep = 1 and add = 0 the arrays keep their values, which the compiler
   cannot know. */

#define PASS(a) a[i] = keep * a[i] + add * g;

#define ROOFLINE(name, arguments, passes)                                                                  \
    void name(int64_t n, int threads, const REAL *hyper, const REAL *restrict grad, arguments)               \
    {                                                                                                        \
        const REAL keep = hyper[0], add = hyper[1];                                                          \
        _Pragma("omp parallel for simd num_threads(threads) schedule(static)")                              \
        for (int64_t i = 0; i < n; i++) {                                                                    \
            REAL g = grad[i];                                                                                \
            passes                                                                                           \
        }                                                                                                    \
    }

#define ARRAY(a) REAL *restrict a
#define AND ,
ROOFLINE(roofline_1, ARRAY(a), PASS(a))
ROOFLINE(roofline_2, ARRAY(a) AND ARRAY(b), PASS(a) PASS(b))
ROOFLINE(roofline_3, ARRAY(a) AND ARRAY(b) AND ARRAY(c), PASS(a) PASS(b) PASS(c))
ROOFLINE(roofline_4, ARRAY(a) AND ARRAY(b) AND ARRAY(c) AND ARRAY(d), PASS(a) PASS(b) PASS(c) PASS(d))

/* The same for arrays that are read before a step, for sums: each is only read. */

#define READ(name, arguments, sum)                                                                         \
    REAL name(int64_t n, int threads, arguments)                                                           \
    {                                                                                                      \
        REAL total = 0;                                                                                    \
        _Pragma("omp parallel for simd num_threads(threads) schedule(static) reduction(+ : total)")        \
        for (int64_t i = 0; i < n; i++)                                                                    \
            total += sum;                                                                                  \
        return total;                                                                                      \
    }

#define CONST(a) const REAL *restrict a
READ(read_1, CONST(a), a[i])
READ(read_2, CONST(a) AND CONST(b), a[i] + b[i])
READ(read_3, CONST(a) AND CONST(b) AND CONST(c), a[i] + b[i] + c[i])
READ(read_4, CONST(a) AND CONST(b) AND CONST(c) AND CONST(d), a[i] + b[i] + c[i] + d[i])
