"""Every error that the page of questions names is raised, in these words."""

import re
from pathlib import Path

import numpy as np
import pytest

import fastopt
from tests.support import COMPILED

PAGE = Path(__file__).parent.parent / "docs" / "faq.md"
QUOTED = re.findall(r"^\| `([^`]+)` \|", PAGE.read_text("utf-8"), re.MULTILINE)


def read_only():
    w = np.ones(3)
    w.flags.writeable = False
    return fastopt.SGD(w)


def own_memory():
    w = np.ones(3)
    fastopt.SGD(w, lr=0.1).step(w)


def integer(update, param, state, hyper):
    return 2 * hyper[0] * update, state


def assigned():
    fastopt.SGD(np.ones(3)).momentum = 0.9


CAUSES = [
    lambda: fastopt.SGD(np.ones(3, int)),
    lambda: fastopt.SGD(np.ones(3, np.float32)).step(np.ones(3)),
    lambda: fastopt.SGD(np.ones(6)[::2]),
    read_only,
    lambda: fastopt.SGD(np.ones(3)).step(np.ones(4)),
    own_memory,
    lambda: fastopt.Adam(np.ones(3), learning_rate=0.1),
    lambda: fastopt.Optimizer(
        np.ones(3, np.float32), fastopt.Transform(integer, hyper=(0.5,)), executor="serial"
    ),
    assigned,
    lambda: fastopt.SGD(np.ones(3), nesterov=True),
    lambda: fastopt.RMSProp(np.ones(3, np.float32), eps=1e-50),
    lambda: fastopt.SGD(np.ones(3)).last.norm,
    lambda: fastopt.SGD(np.ones(3)).zero_grad(),
    lambda: fastopt.minimize(lambda x: x @ x, np.ones(2000)),
]


def test_every_error_has_a_cause():
    assert len(QUOTED) == len(CAUSES)


@pytest.mark.parametrize(("text", "cause"), list(zip(QUOTED, CAUSES, strict=False)), ids=QUOTED)
def test_quoted_errors_occur(text, cause):
    if "float32 into float64" in text and not COMPILED:
        pytest.skip("only the compiler finds this")
    with pytest.raises((AttributeError, TypeError, ValueError), match=re.escape(text)):
        cause()
