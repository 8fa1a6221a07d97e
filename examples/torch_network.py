"""
A network in PyTorch
====================

A small network takes its first 200 steps on two spirals, once with torch's RMSprop and once with
fastopt's: only the import differs. The loss curves lie on each other.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

import fastopt.interop.torch

torch.manual_seed(0)
turn = torch.rand(400) * 3 * torch.pi
arm = torch.arange(400) % 2
angle = turn + torch.pi * arm
points = torch.stack((angle.cos(), angle.sin()), 1) * turn[:, None] / 5 + 0.02 * torch.randn(400, 2)

# %%
# Training
# --------
# The same function for both: `home` is the module that the optimizer is imported from.


def train(home, steps=200):
    """The loss at every step."""
    torch.manual_seed(1)
    network = torch.nn.Sequential(
        torch.nn.Linear(2, 64), torch.nn.Tanh(), torch.nn.Linear(64, 64), torch.nn.Tanh(),
        torch.nn.Linear(64, 2),
    )  # fmt: skip
    optimizer = home.RMSprop(network.parameters(), lr=1e-3, eps=1e-3, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(points), arm)
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    return np.array(losses)


curves = {"torch.optim": train(torch.optim), "fastopt.interop.torch": train(fastopt.interop.torch)}
difference = np.abs(curves["torch.optim"] - curves["fastopt.interop.torch"]).max()
assert difference < 1e-5

# %%
# The curves
# ----------

figure, axes = plt.subplots()
for (label, losses), style in zip(curves.items(), ("-", "--"), strict=True):
    axes.plot(losses, style, label=label)
axes.set(xlabel="step", ylabel="cross entropy", title=f"largest difference: {difference:.0e}")
axes.legend()
plt.show()
