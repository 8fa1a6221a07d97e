"""
Balancing a pole
================

A toy of reinforcement learning: a cart has to keep a pole upright by pushing left or right. The
policy is learned from rewards alone (REINFORCE, with the batch's mean as baseline). Its gradients
are noise for the most part, and their scale changes as the policy improves, which is where RMSProp
is at home.
"""

import matplotlib.pyplot as plt
import numpy as np

import fastopt

LONGEST = 200  # steps of an episode, and so its best reward

# %%
# The world
# ---------
# A hundred carts at once, as arrays. A state is position, speed, angle and angular speed; an
# episode ends when the cart leaves its track or the pole leans by more than twelve degrees. Masses,
# lengths and forces are the usual ones.


def move(state, push):
    _, speed, angle, turning = state.T
    force = np.where(push, 10.0, -10.0)
    sin, cos = np.sin(angle), np.cos(angle)
    pull = (force + 0.05 * turning**2 * sin) / 1.1
    turn = (9.8 * sin - cos * pull) / (0.5 * (4 / 3 - 0.1 * cos**2 / 1.1))
    shove = pull - 0.05 * turn * cos / 1.1
    new = np.stack([speed, shove, turning, turn], axis=1) * 0.02
    return state + new


def play(w, rng, carts=100):
    """Let each cart play; return rewards, and the gradient of the log-probability of what each did."""
    state = rng.uniform(-0.05, 0.05, (carts, 4))
    alive = np.ones(carts, bool)
    rewards, slopes = np.zeros(carts), np.zeros((carts, 4))
    for _ in range(LONGEST):
        right = 1 / (1 + np.exp(-np.clip(state @ w, -50, 50)))
        push = rng.random(carts) < right
        slopes += np.where(alive, push - right, 0)[:, None] * state
        state = move(state, push)
        rewards += alive
        alive &= (abs(state[:, 0]) < 2.4) & (abs(state[:, 2]) < 0.2095)
    return rewards, slopes


# %%
# Learning
# --------
# The reward is to grow, hence ``maximize=True``.


def learn(make, seed, rounds=60):
    w, rng = np.zeros(4), np.random.default_rng(seed)
    opt = make(w)
    history = []
    for _ in range(rounds):
        rewards, slopes = play(w, rng)
        opt.step((rewards - rewards.mean()) @ slopes / len(rewards))
        history.append(rewards.mean())
    return history


rules = {
    "RMSProp, lr 0.3": lambda w: fastopt.RMSProp(w, lr=0.3, maximize=True),
    "gradient ascent, lr 0.002": lambda w: fastopt.SGD(w, lr=0.002, maximize=True),
    "gradient ascent, lr 0.05": lambda w: fastopt.SGD(w, lr=0.05, maximize=True),
}
results = {name: [learn(make, seed) for seed in range(3)] for name, make in rules.items()}

figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
for i, (name, histories) in enumerate(results.items()):
    for history in histories:
        axes.plot(history, color=f"C{i}", alpha=0.4)
    axes.plot(np.mean(histories, axis=0), color=f"C{i}", linewidth=2, label=name)
axes.axhline(LONGEST, color="0.6", linewidth=0.8)
axes.set(xlabel="rounds of 100 episodes", ylabel="mean reward")
axes.legend(loc="lower right")
plt.show()

# %%
final = np.mean(results["RMSProp, lr 0.3"], axis=0)[-5:].mean()
print(f"RMSProp keeps the pole up for {final:.0f} of {LONGEST} steps")
assert final > 150

# %%
# Plain gradient ascent learns as quickly, at a rate that fits. At one that is 25 times smaller it
# hardly moves, and nothing tells beforehand which rate fits: it depends on the scale of the rewards.
# RMSProp's rate does not: it is how far a weight moves in a round.
