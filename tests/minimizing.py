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


def usual_rate(rate, x0):
    """The default of `fastopt.minimize`, for a point whose root mean square is larger than one, too."""
    return rate * max(1.0, float(np.sqrt((np.float64(x0) ** 2).mean())))


def by_hand_restarting(make, fun, x0, lr, steps, patience=20):
    """The same with the default rule: half the rate and new states where the value stops falling."""
    x, opt = x0.copy(), None
    points, lowest, waited = [], np.inf, 0
    for _ in range(steps + 1):
        opt = opt or make(x, lr=lr)
        value, grad = fun(x)
        points.append(x.copy())
        if value < lowest and np.isfinite(grad).all():
            lowest, best, waited = value, (x.copy(), grad), 0
        else:
            waited += 1
        if waited == patience or not (np.isfinite(value) and np.isfinite(grad).all()):
            lr, waited = lr / 2, 0
            x[...], grad = best
            opt = make(x, lr=lr)
        opt.step(np.asarray(grad, x.dtype))
    return points


def recorded(fun, x0, **arguments):
    """The result, and the point and value of every iteration."""
    seen = []

    def callback(intermediate_result):
        seen.append((intermediate_result.x, intermediate_result.fun, intermediate_result.nit))

    return fastopt.minimize(fun, x0, callback=callback, **arguments), seen


def sphere(x):
    return x @ x, 2 * x
