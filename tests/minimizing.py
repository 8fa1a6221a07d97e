"""What the tests of `fastopt.minimize` need: functions, and the loop that anyone would write."""

import numpy as np
from scipy.optimize import rosen, rosen_der

import fastopt

X0 = np.array([-1.2, 1.0, 0.8, 1.5, -0.3])


def both(x):
    return rosen(x), rosen_der(x)


def by_hand(make, x0, steps, low=-np.inf, high=np.inf):
    """All points and values of a loop that anyone would write."""
    x = np.clip(x0, low, high).astype(x0.dtype)
    opt = make(x)
    points, values = [x.copy()], [float(rosen(x))]
    for _ in range(steps):
        opt.step(np.asarray(rosen_der(x), x.dtype))
        points.append(x.copy())
        values.append(float(rosen(x)))
    return points, values


def recorded(fun, x0, **arguments):
    """The result, and the point and value of every iteration."""
    seen = []

    def callback(intermediate_result):
        seen.append((intermediate_result.x, intermediate_result.fun, intermediate_result.nit))

    return fastopt.minimize(fun, x0, callback=callback, **arguments), seen


def sphere(x):
    return x @ x, 2 * x
