"""What a kernel moves and executes, counted by the emulated GPU."""

import numpy as np
import pytest

import fastopt
from fastopt.codecs.base import BLOCK
from fastopt.codecs.blocks import ITEM
from tests.device import EMULATED, misaligned, to_device

if not EMULATED:
    pytest.skip("counts what the emulated GPU alone tells", allow_module_level=True)

N, WARP = 8192, 32
DECLARED = {  # bytes an element in float32: each array read once, and written once
    fastopt.SGD: 12,
    fastopt.RMSProp: 20,
    fastopt.AdaGrad: 20,
    fastopt.Adam: 28,
    fastopt.AdamW: 28,
    fastopt.NAdam: 28,
    fastopt.Lion: 20,
    fastopt.AdaMax: 28,
    fastopt.AdaDelta: 28,
    fastopt.RAdam: 28,
    fastopt.AdEMAMix: 36,
    fastopt.Adan: 44,
    fastopt.Rprop: 28,
    fastopt.ASGD: 20,
}


@pytest.fixture(autouse=True)
def _counting(monkeypatch):
    monkeypatch.setattr("gpu_emulator._TRACE", True)


def moved(launch):
    """Bytes asked for and bytes of the sectors that they are in."""
    return launch["ld_bytes"] + launch["st_bytes"], 32 * (launch["ld_sectors"] + launch["st_sectors"])


def steps(kind, n=N, dtype=np.float32, place=to_device, **settings):
    """The launches of a step."""
    import gpu_emulator

    w, g = (place(np.ones(n, dtype)) for _ in range(2))
    opt = kind(w, **settings)
    count = len(gpu_emulator.launches)
    opt.step(g)
    return gpu_emulator.launches[count:]


def step(kind, *arguments, **settings):
    """The last launch of a step, of the arrays."""
    return steps(kind, *arguments, **settings)[-1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", DECLARED)
def test_every_byte_is_moved_once(kind, dtype):
    declared = DECLARED[kind] * N * np.dtype(dtype).itemsize // 4
    assert moved(step(kind, dtype=dtype)) == (declared, declared)


OPTIONS = {  # bytes an element beside those of RMSProp
    "momentum": ({"momentum": 0.9}, 8),
    "centered": ({"centered": True}, 8),
    "average": ({"average_decay": 0.9}, 8),
    "zero_grad": ({"zero_grad": True}, 4),
    "no array": ({"weight_decay": 0.1, "clip_value": 1.0, "bounds": (-1.0, 1.0)}, 0),
}


@pytest.mark.parametrize(("settings", "more"), OPTIONS.values(), ids=OPTIONS)
def test_options_move_their_own_bytes_only(settings, more):
    declared = (20 + more) * N
    assert moved(step(fastopt.RMSProp, **settings)) == (declared, declared)


@pytest.mark.parametrize(("dtype", "size"), [(np.float16, 2), (np.float64, 8)])
def test_copies(dtype, size):
    copy = to_device(np.zeros(N, dtype))
    asked, sectors = moved(step(fastopt.RMSProp, copy_to=copy))
    assert asked == (20 + size) * N
    # Four float64 of a thread take two instructions, which meet the same sectors.
    assert sectors == asked + (size == 8) * 8 * N


def test_warp_instructions():
    launch = step(fastopt.RMSProp)
    assert launch["warp_instr"] / N <= 0.5
    assert launch["grid"] == (N // 4 // launch["block"][0], 1, 1)


def test_tail_and_misaligned_arrays_move_no_more():
    asked, _ = moved(step(fastopt.RMSProp, n=N + 3))
    assert asked == 20 * (N + 3)
    launch = step(fastopt.RMSProp, place=misaligned)
    asked, sectors = moved(launch)
    assert asked == 20 * N
    assert launch["grid"] == (N // launch["block"][0], 1, 1)
    # Of parameter and gradient a warp then meets five sectors in the place of four.
    assert sectors == (12 * 5 // 4 + 8) * N


def test_many_arrays_move_little_more():
    """The table: 24 words for a block of 1024 elements, each of which a warp asks for at once."""
    params, grads = ([to_device(np.ones(N // 8, np.float32)) for _ in range(8)] for _ in range(2))
    import gpu_emulator

    opt = fastopt.RMSProp(params)
    opt.step(grads)
    launch = gpu_emulator.launches[-1]
    words = 4 + 3  # of the piece, and of the row
    warps = launch["grid"][0] * launch["block"][0] // 32
    asked, sectors = moved(launch)
    assert launch["grid"] == (8, 1, 1)
    assert asked == 20 * N + (words - 1) * 8 * 32 * warps  # `stop` is for the tail
    assert sectors <= 20 * N + words * 32 * warps


@pytest.mark.parametrize(("kind", "states"), [(fastopt.RMSProp, 1), (fastopt.Adam, 2)])
def test_states_in_blocks(kind, states):
    """A byte for a code, and one scale for 256: all threads of a warp ask for it, and one stores it."""
    launch = step(kind, state_dtype="8bit", stochastic_rounding=False)
    assert launch["grid"] == (N // 8 // launch["block"][0], 1, 1)
    asked, sectors = moved(launch)
    blocks = N // BLOCK
    assert asked == (12 + 2 * states) * N + states * blocks * 4 * (WARP + 1)
    # Items of 260 bytes do not begin where sectors do.
    item = np.arange(blocks)[:, None] * ITEM.itemsize
    first = item + 4 + np.arange(0, BLOCK, 4 * WARP)
    met = 32 * int(((first + 4 * WARP - 1) // 32 - first // 32 + 1).sum() + blocks)
    assert sectors == 12 * N + 2 * states * met
    assert met <= 1.4 * N


def test_random_bits_come_from_a_table():
    """Of 1 KiB, which stays in the cache: four bytes for each element that is rounded."""
    plain, random = (
        moved(step(fastopt.RMSProp, state_dtype="8bit", stochastic_rounding=dithered))[0]
        for dithered in (False, True)
    )
    assert random == plain + 4 * N


def test_warp_instructions_of_blocks():
    launches = [
        step(fastopt.RMSProp, state_dtype="8bit", stochastic_rounding=dithered)
        for dithered in (False, True)
    ]
    assert all(
        launch["warp_instr"] / N <= most for launch, most in zip(launches, (1.2, 1.3), strict=True)
    )


@pytest.mark.parametrize(("kind", "numbers"), [(fastopt.RMSProp, 5), (fastopt.Adam, 7)])
def test_16_bits(kind, numbers):
    asked = 2 * numbers * N
    assert moved(step(kind, dtype=np.float16, stochastic_rounding=False)) == (asked, asked)


@pytest.mark.parametrize(("kind", "states"), [(fastopt.RMSProp, 1), (fastopt.Adam, 2)])
def test_16_bits_and_states_in_blocks(kind, states):
    """The bytes that codes take are the same."""
    settings = {"state_dtype": "8bit", "stochastic_rounding": False}
    wide, narrow = (step(kind, dtype=dtype, **settings) for dtype in (np.float32, np.float16))
    assert np.subtract(moved(wide), moved(narrow)).tolist() == [6 * N, 6 * N]


@pytest.mark.parametrize(
    ("dtype", "sums", "again", "most", "decision_most"),
    [
        (np.float16, 2, 2, 1.23, 4300),
        (np.float32, 2, 1, 1.23, 4300),
        (np.float64, 3, 1, 1.52, 5000),
    ],
)
def test_norm(dtype, sums, again, most, decision_most):
    """Each gradient is read once, and a block of 8192 stores a number for each of two or three sums.

    Only squares of float64 can overflow or vanish.

    Eight numbers of 16 bits are half a sector, whose other half the next load finds in the cache.
    """
    squares, decision, _ = steps(fastopt.RMSProp, 3 * N, dtype, clip_norm=1.0)
    size = np.dtype(dtype).itemsize
    assert squares["grid"] == (3, 1, 1)
    assert squares["ld_bytes"] == 3 * N * size
    assert 32 * squares["ld_sectors"] == again * squares["ld_bytes"]
    assert squares["st_bytes"] == 3 * sums * 8
    assert squares["warp_instr"] / (3 * N) <= most
    assert decision["grid"] == (1, 1, 1)
    assert decision["warp_instr"] <= decision_most


def test_a_clipped_step_moves_little_more():
    """The factor, and whether to skip: each thread asks for them, and all of a warp at once."""
    launch = step(fastopt.RMSProp, clip_norm=1.0)
    asked, sectors = moved(launch)
    assert asked == 20 * N + (4 + 8) * N // 4
    assert sectors == 20 * N + 2 * 32 * (N // 4 // WARP)
    assert launch["warp_instr"] / N <= 0.58


def test_a_captured_step_moves_little_more():
    """The hyperparameters, which all threads of a warp ask for at once."""
    plain, captured = (step(fastopt.Adam, capturable=capturable) for capturable in (False, True))
    numbers, warps = 8, N // 4 // WARP
    assert captured["ld_sectors"] == plain["ld_sectors"] + numbers * warps
    assert captured["st_bytes"] == plain["st_bytes"]
    assert captured["warp_instr"] <= plain["warp_instr"] + warps
