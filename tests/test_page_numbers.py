"""Numbers that are typed in sentences and small tables: those of the newest results, or of the code."""

import math
import re
import statistics
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import fastopt
from bench.comparison.report import NEAR, RESULTS, final
from bench.problems import READ_AGAIN
from bench.stored import newest, newest_first
from fastopt.arrays.archive import IO_CHUNK
from fastopt.codecs.base import BLOCK
from fastopt.executors.norm import LANES, SUM_BLOCK
from fastopt.minimization import differences, foreign, restarts, stopping
from fastopt.optimizers.registry import MODULES
from fastopt.steps.sparse.lagging_rows import REMEMBERED
from fastopt.steps.state_formats import WORTH_EIGHT_BITS

ROOT = Path(__file__).parents[1]
WORDS = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
]  # fmt: skip
PARTS = {1: "whole", 2: "half", 3: "third", 5: "fifth", 8: "eighth", 9: "ninth", 12: "twelfth"}
PARTS = {number: PARTS.get(number, f"{word}th") for number, word in enumerate(WORDS)}
SENTENCES = []


def says(page, pattern):
    """A sentence of a page; the decorated function gives what the groups of the pattern must be."""

    def register(numbers):
        name = f"{Path(page).stem}-{numbers.__name__}"
        SENTENCES.append(pytest.param(page, pattern, numbers, id=name))
        return numbers

    return register


def groups(page, pattern):
    """What the groups of a pattern are in a page, whose lines are joined."""
    text = " ".join((ROOT / page).read_text("utf-8").split())
    matches = re.findall(pattern, text)
    assert len(matches) == 1, f"{page} has {len(matches)} sentences like {pattern!r}"
    return matches[0] if isinstance(matches[0], tuple) else (matches[0],)


# Measured.


def peers(results, question, **key):
    """What each peer took in the case of a question that has the most elements."""
    wanted = {"question": question, **key}.items()
    cases = [case for case in results["cases"] if wanted <= case.items()]
    return max(cases, key=lambda case: case.get("size", 0))["peers"]


def seconds(peer, question, **key):
    """On each machine."""
    return [peers(one, question, **key)[peer]["seconds"]["median"] for one in newest_first()]


def from_to(numbers, words):
    """The smallest and the largest of all machines, in words."""
    return words[round(min(numbers))], words[round(max(numbers))]


@says(
    "README.md",
    r"arrays take an? (\w+) to an? (\w+) of the time of in-place NumPy and of PyTorch's default",
)
def large_steps():
    large = {"dtype": "float32", "all_threads": True}
    cases = (
        ("numpy_in_place", {"question": "throughput", "form": "rmsprop"}),
        ("torch_eager", {"question": "family", "form": "rmsprop_outside"}),
    )
    times = [
        peers(one, **key, **large)[peer]["time_ratio"]["median"]
        for one in newest_first()
        for peer, key in cases
    ]
    return from_to(times, PARTS)


@says("docs/faq.md", r"A call costs (\w+) to (\w+) microseconds:")
def a_call():
    return from_to([1e6 * time for time in seconds("fastopt", "overhead", gradient="same")], WORDS)


@says("docs/start.md", r"compiles its loop\*\*, the first time, which takes (\w+) to (\w+) seconds\.")
@says("docs/threads.md", r"Compiling a chain takes \[(\w+) to (\w+) seconds\]")
def compiling():
    cold, warm = (seconds(f"{cache}_one_core", "first step") for cache in ("cold", "warm"))
    return from_to([one - other for one, other in zip(cold, warm, strict=True)], WORDS)


@says("docs/mpi.md", r"The local step of a rank takes about (\w+) the time that one rank alone takes")
def local_step():
    case = newest(RESULTS.parent / "mpi")["cases"][-1]
    return (PARTS[round(1 / case["ratios"]["local / one_rank"]["median"])],)


@says(
    "docs/why.md",
    r"in \[CUDA\]\S+ for these and (\w+) on a GPU\. DeepSpeed and (\w+) were not measured",
)
def measured_on_a_gpu():
    cases = str(newest(RESULTS.parent / "cuda")["cases"]).lower()
    return tuple(sorted(("bitsandbytes", "FlashOptim"), key=lambda name: name.lower() not in cases))


TASKS = newest(RESULTS)["tasks"]


def loss(task, rule):
    return statistics.median(final(TASKS[task][rule]))


def powers_of_ten(rule):
    rates = [rules[rule]["lr"] for rules in TASKS.values()]
    return WORDS[round(math.log10(max(rates) / min(rates)))]


@says("docs/which-one.md", r"gradient descent differs by (\w+) powers of ten .* Adam's by (\w+)\.")
def rates_apart():
    return powers_of_ten("SGD"), powers_of_ten("Adam")


@says("docs/which-one.md", r"`Prodigy` comes near the best on (\w+) of (\w+) with nothing chosen")
def prodigy():
    lowest = {task: min(loss(task, rule) for rule in rules) for task, rules in TASKS.items()}
    near = [task for task in TASKS if loss(task, "Prodigy") <= NEAR * lowest[task]]
    return WORDS[len(near)], WORDS[len(TASKS)]


@says("docs/which-one.md", r"at (\w+) to (\w+) times RMSProp's time for a step")
def time_of_prodigy():
    costs = newest(RESULTS)["costs"]
    ratio = costs["Prodigy"]["seconds"] / costs["RMSProp"]["seconds"]
    return WORDS[math.floor(ratio)], WORDS[math.ceil(ratio)]


@says("docs/which-one.md", r"`schedule_free` is among the (first|last) on the noisy ones")
def schedule_free():
    order = [
        sorted(TASKS[task], key=lambda rule: loss(task, rule))
        for task in ("digits", "text", "quadratic")
    ]
    free = {"Adam, schedule-free", "SGD, schedule-free"}
    return ("first" if all(free & set(rules[:5]) for rules in order) else "last",)


@says(
    "docs/which-one.md", r"without momentum fall (far|little) behind themselves with it in the curved"
)
def without_momentum():
    ratios = [
        loss("rosenbrock", rule) / loss("rosenbrock", f"{rule}, momentum 0.9")
        for rule in ("RMSProp", "SGD")
    ]
    return ("far" if min(ratios) > 100 else "little",)


# Counted.

EIGHT_BITS = {"state_dtype": "8bit"}


def new(kind, dtype=np.float32, size=256 * BLOCK, **options):
    return getattr(fastopt, kind)(np.zeros(size, dtype), executor="reference", **options)


def states(kind, *args, **options):
    """Bytes an element of the states."""
    opt = new(kind, *args, **options)
    return sum(array.nbytes for array in opt.state.values()) / opt.params.size


def is_rounded(text, number):
    """Whether a text is this number, in as many digits as it has."""
    digits = re.match(r"\d+\.?(\d*)", text)
    return round(number, len(digits[1])) == float(digits[0])


def rows(page, head):
    """The cells of the table under a head."""
    lines = (ROOT / page).read_text("utf-8").partition(head)[2].partition("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@says("README.md", r"in place, by (.*?), (\w+) more, or a rule of your own")
def names():
    listed = "SGD, RMSProp, AdaGrad, Adam, AdamW, NAdam, Lion, RAdam, LAMB, Prodigy"
    assert set(listed.split(", ")) <= set(MODULES)
    return listed, WORDS[len(MODULES) - len(listed.split(", "))]


@says("README.md", r"AdamW keeps a bfloat16 model and its states in (\d+) bytes a weight")
@says("docs/why.md", r"AdamW keeps a bfloat16 model and its states in (\d+) bytes a weight")
def split_adamw():
    return (2 + round(states("AdamW", ml_dtypes.bfloat16, master_bits=24, **EIGHT_BITS)),)


def lines_of(name):
    path = ROOT / "tests" / "examples" / f"toy_{name}.py"
    return round(path.read_text("utf-8").count("\n"), -1)


@says("CONTRIBUTING.md", r"`tests/examples/toy_optimizer.py` is [^.]* in (\d+) lines")
def toy_optimizer():
    return (lines_of("optimizer"),)


@says("CONTRIBUTING.md", r"`tests/examples/toy_format.py` is [^.]* in (\d+) lines")
def toy_format():
    return (lines_of("format"),)


@says("CONTRIBUTING.md", r"`tests/examples/toy_place.py` is [^.]* in (\d+) lines")
@says("docs/inside.md", r"`tests/examples/toy_place.py` is [^.]* in (\d+) lines")
def toy_place():
    return (lines_of("place"),)


CONSTANTS = [
    ("docs/checkpoints.md", r"copied in chunks of (\d+) MB", IO_CHUNK >> 20),
    ("docs/codecs.md", r"of fewer than (\d+) elements, have float32 states", WORTH_EIGHT_BITS),
    ("docs/codecs.md", r"A block is (\d+) neighbouring elements", BLOCK),
    ("docs/glossary.md", r"(\d+) neighbouring elements", BLOCK),
    ("docs/glossary.md", r"A block of a sum is (\d+) elements", SUM_BLOCK),
    ("docs/numerics.md", r"within blocks of (\d+) elements by rows of \w+", SUM_BLOCK),
    ("docs/numerics.md", r"within blocks of \d+ elements by rows of (\w+)", WORDS[LANES]),
    ("docs/options.md", r"one sum for each statistic and (\d+) elements", SUM_BLOCK),
    ("docs/scipy.md", r"After (\d+) evaluations without a new lowest value", restarts.PATIENCE),
    ("docs/scipy.md", r"with an `lr` of yours, or after (\d+) halvings", restarts.MOST),
    ("docs/scipy.md", r"element of the gradient exceeds `gtol` \((\S+)\)", stopping.GTOL),
    ("docs/scipy.md", r"at most `ftol \* max\(abs\(fun\), 1\)` \((\S+)\)", stopping.FTOL),
    ("docs/scipy.md", r"`maxiter` steps were taken \((\d+) by default", foreign.MAXITER),
    ("docs/scipy.md", r"are used for up to (\d+) elements, and", differences.LARGEST),
    ("docs/sparse.md", r"So does every (\d+,\d+)th step", f"{REMEMBERED:,}"),
]


@pytest.mark.parametrize(("page", "pattern", "numbers"), SENTENCES)
def test_sentences_have_the_numbers(page, pattern, numbers):
    assert groups(page, pattern) == tuple(map(str, numbers()))


@pytest.mark.parametrize(("page", "pattern", "number"), CONSTANTS)
def test_sentences_have_the_constants(page, pattern, number):
    (typed,) = groups(page, pattern)
    assert typed == str(number) or float(typed) == number


def test_first_rates_of_minimize():
    (typed,) = groups("docs/scipy.md", r"It starts at (.*?), times the root mean square")
    pairs = re.findall(r"([\d.]+) \(([\w, ]+)\)", typed)
    rates = {name: float(rate) for rate, kinds in pairs for name in kinds.split(", ")}
    usual = {name: getattr(fastopt, name).usual_lr for name in MODULES}
    assert rates == {name: rate for name, rate in usual.items() if isinstance(rate, float)}
    (typed,) = groups("docs/scipy.md", r"For (\w+ and \w+) it starts at the inverse of the curvature")
    assert typed.split(" and ") == [name for name, rate in usual.items() if rate == "curvature"]


SETTINGS = {"momentum=...": {"momentum": 0.9}}
SETTINGS["centered=True, momentum=..."] = {"centered": True, "momentum": 0.9}


def test_bytes_that_steps_move():
    """The table of docs/performance.md, for every optimizer."""
    listed = set()
    for optimizers, counts, moved in rows(
        "docs/performance.md", "| float32 | states | bytes an element |"
    ):
        kinds = re.findall(r"`(\w+)(?:\(([^)]*)\))?`", optimizers)
        typed = [re.findall(r"\d+", cell.partition(":")[0]) for cell in (counts, moved)]
        for i, (kind, settings) in enumerate(kinds):
            if kind not in MODULES:
                continue  # an option
            listed.add(kind)
            count = len(new(kind, size=1, **SETTINGS.get(settings, {})).state)
            read = READ_AGAIN.get(kind.lower(), 0)
            expected = [str(count), str(4 * (3 + 2 * count + read))]
            assert [column[min(i, len(column) - 1)] for column in typed] == expected, kind
    assert listed == set(MODULES)


def test_bytes_of_states():
    """The first table of docs/codecs.md, and what a step of RMSProp moves."""
    table = rows("docs/codecs.md", '| | as float32 | as bfloat16 | `"8bit"` |')
    kinds = ("RMSProp", {}), ("RMSProp", {"centered": True, "momentum": 0.9}), ("Adam", {})
    formats = "float32", "bfloat16", "8bit"
    for (kind, settings), (_, *cells) in zip(kinds, table, strict=True):
        for state_dtype, cell in zip(formats, cells, strict=True):
            assert is_rounded(cell, states(kind, state_dtype=state_dtype, **settings)), (kind, cell)
    moved = (
        r"moves ([\d.]+) bytes an element in float32, ([\d.]+) in bfloat16, ([\d.]+) in .* ([\d.]+) in"
    )
    eight = 2 * states("RMSProp", **EIGHT_BITS)
    for typed, number in zip(
        groups("docs/codecs.md", moved), (20, 10, 12 + eight, 6 + eight), strict=True
    ):
        assert is_rounded(typed, number)


def test_bytes_of_torchs_operations():
    """The table of docs/torch.md: what torch's default moves, beside a step here."""
    head = "| | operations of torch's default | torch | here | ratio |"
    sums = {}
    for name, operations, torch, here, ratio in rows("docs/torch.md", head):
        kind, _, option = name.partition("`, ")
        kind = {"Adagrad": "AdaGrad", "RMSprop": "RMSProp"}.get(kind.strip("`"), kind.strip("`"))
        moved = sum(map(int, re.findall(r"` (\d+)", operations)))
        last = int(re.findall(r"`addcdiv_` (\d+)", operations)[0]) if "addcdiv_` " in operations else 0
        sums[kind] = moved, last
        if kind == "NAdam":
            moved, last = sums["Adam"]
            moved += last
        ours = 4 * (3 + 2 * len(new(kind, size=1, **({"momentum": 0.9} if option else {})).state))
        assert (int(torch), int(here)) == (moved, ours), kind
        assert is_rounded(ratio, moved / ours), kind


def test_bytes_of_split_weights():
    """The first table of docs/split-weights.md: of a weight, held by AdamW, moved by RMSProp."""
    head = "| | bytes a weight | precision | AdamW with 8-bit states holds | RMSProp with one moves |"
    eight = states("RMSProp", **EIGHT_BITS)
    sizes = {
        "float32": (4, 0),
        "master_bits=32": (2, 2),
        "master_bits=24": (2, 1),
        "stochastic": (2, 0),
    }
    for name, weight, _, holds, moves in rows("docs/split-weights.md", head):
        if "copy" in name:  # the copy is stepped, and the model's weights are written
            expected = 6, 6 + 2 * eight, 2 + 2 * 4 + 2 + 2 * eight
        else:
            (size,) = (size for key, size in sizes.items() if key in name)
            expected = sum(size), sum(size) + 2 * eight, size[0] + 2 * sum(size) + 2 * eight
        for cell, number in zip((weight, holds, moves), expected, strict=True):
            assert is_rounded(cell, number), name
    dtype = ml_dtypes.bfloat16
    for bits, extra in (32, 2), (24, 1):
        assert states("RMSProp", dtype, master_bits=bits, **EIGHT_BITS) == eight + extra
