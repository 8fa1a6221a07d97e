"""The two places of epsilon in a denominator."""

import math


def root_eps_inside(square, eps):
    return math.sqrt(square + eps)


def root_eps_outside(square, eps):
    return math.sqrt(square) + eps
