"""
Deblurring an image, with bounds on its pixels
==============================================

A photograph was blurred and has noise. To invert a blur is to amplify noise, unless something is
known about the image. Here that is little: a pixel is between 0 (black) and 1 (white). ``bounds``
keeps it there, in the same pass over memory as the step.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy.ndimage import gaussian_filter

import fastopt

# %%
# A sharp image, and what the camera saw
# --------------------------------------
# Black and white shapes, where bounds say most.

size = 192
y, x = np.mgrid[0:size, 0:size] / size
sharp = (np.hypot(x - 0.35, y - 0.4) < 0.2) ^ (np.hypot(x - 0.45, y - 0.4) < 0.12)
sharp |= (abs(x - 0.72) < 0.14) & (np.floor(y * 24) % 2 == 0) & (abs(y - 0.5) < 0.35)
sharp |= (abs(x + y - 1.25) < 0.02) & (x < 0.6)
sharp = sharp.astype(np.float32)


def blur(image):
    """A Gaussian blur; it is symmetric, so it is its own adjoint."""
    return gaussian_filter(image, 2.5, mode="wrap")


blurred = blur(sharp) + 0.01 * np.random.default_rng(0).standard_normal(sharp.shape).astype(np.float32)

# %%
# Least squares
# -------------
# Minimize half the squared difference between the blurred image and what was seen. Its gradient is
# the blurred difference.


def restore(bounds, steps=400):
    image = np.full_like(blurred, 0.5)
    opt = fastopt.Adam(image, lr=fastopt.schedules.cosine(0.05, steps), bounds=bounds)
    errors = []
    for _ in range(steps):
        opt.step(blur(blur(image) - blurred))
        errors.append(np.sqrt(np.mean((image - sharp) ** 2)))
    return image, errors


free, free_errors = restore(None)
bounded, bounded_errors = restore((0.0, 1.0))
assert 0 <= bounded.min() <= bounded.max() <= 1

# %%
figure, axes = plt.subplots(2, 2, figsize=(6.4, 6.4), layout="constrained")
pictures = {
    "what was seen": blurred,
    "restored without bounds": free,
    "restored with bounds": bounded,
    "the sharp image": sharp,
}
for ax, (title, picture) in zip(axes.flat, pictures.items(), strict=True):
    ax.imshow(picture, cmap="gray", vmin=0, vmax=1)
    ax.set_title(title)
    ax.axis("off")
plt.show()

# %%
# Without bounds the error stops falling, because the fit explains the noise too. With bounds it falls
# to the end.

figure, ax = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
ax.plot(free_errors, label="without bounds")
ax.plot(bounded_errors, label="pixels between 0 and 1")
ax.set(xlabel="step", ylabel="error of the image", ylim=(0, None))
ax.legend()
plt.show()

assert bounded_errors[-1] < 0.7 * min(free_errors)
assert min(free_errors) > 0.99 * free_errors[-1]
