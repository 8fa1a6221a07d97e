"""The benchmarks' arithmetic, their peers, and that README, pages and figures say what is stored."""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

from bench import (
    __main__,
    automatic_rate,
    drawing,
    evaluations,
    figures,
    machine,
    measure,
    peers,
    peers_numexpr,
    problems,
    report,
    tables,
)
from bench.comparison import report as comparison
from bench.cuda import report as gpu_report
from bench.mpi import __main__ as mpi
from bench.mpi import report as mpi_report
from bench.roofline import roofline
from bench.split_weights import grammar
from bench.split_weights import report as split_weights
from bench.stored import newest, newest_first
from tests.support import interpreted_suite_only

ROOT = Path(__file__).parent.parent
RESULTS = sorted((ROOT / "bench" / "results").glob("*.json"))
TEXT = re.compile(r"<text[^>]*>([^<]*)</text>")


def stored(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def machines() -> tuple[Any, list[Any]]:
    """The newest results, and those of other machines."""
    first, *others = newest_first()
    return first, others


def part(page: Path) -> str:
    text = page.read_text("utf-8")
    return text.partition("<!-- bench:start -->")[2].partition("<!-- bench:end -->")[0].strip()


def test_readme_has_the_stored_results() -> None:
    assert part(report.README) == report.summary(*machines()).strip()


def test_page_has_the_stored_results() -> None:
    assert part(report.DETAILS) == report.details(*machines()).strip()


def test_another_machine_is_named_wherever_its_results_are() -> None:
    first, _ = machines()
    facts = {**first["machine"], "cpu": "Other", "microarchitecture": "one", "date": "2026-01-01"}
    other = {**first, "machine": facts}
    where = f"On Other (one), 2 threads, 2026-01-01, commit {first['machine']['commit']}"
    page = report.details(first, [other])
    assert page.count("| float32, all cores |") == page.count(f"## {where}") + 1 == 2
    assert f"- {where}: a step over" in report.summary(first, [other])


def test_every_machine_says_when_it_was_measured_and_of_which_commit() -> None:
    pages = part(report.README), part(report.DETAILS)
    for path in RESULTS:
        machine = stored(path)["machine"]
        for page in pages:
            assert f"{machine['date']}, commit {machine['commit']}" in page


@pytest.mark.parametrize("of", [automatic_rate, evaluations], ids=lambda of: of.__name__)
def test_pages_about_learning_rates_have_the_newest_results(of: Any) -> None:
    page = of.PAGE.read_text("utf-8")
    texts = of.report(newest(of.RESULTS))
    for name, text in texts.items():
        assert report.insert_between(page, name, text) == page
        assert text in page


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_results_say_where_they_come_from(path: Path) -> None:
    machine = stored(path)["machine"]
    assert {
        "cpu",
        "cores",
        "caches_bytes",
        "memory_gb",
        "threads",
        "date",
        "commit",
        "libraries",
    } <= machine.keys()


@interpreted_suite_only
@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_figures_can_be_drawn_from_every_result(path: Path, tmp_path: Path) -> None:
    drawn = figures.draw(stored(path), tmp_path)
    assert {p.name for p in drawn} == {
        f"{name}-{theme}.svg" for name in figures.FIGURES for theme in ("light", "dark")
    }
    for figure in drawn:
        assert TEXT.findall(figure.read_text("utf-8")), figure.name


@interpreted_suite_only
def test_stored_figures_show_the_newest_results(tmp_path: Path) -> None:
    """All that is written in them, numbers and names; lines may differ with matplotlib's version."""
    for drawn in figures.draw(machines()[0], tmp_path):
        kept = figures.FOLDER / drawn.name
        assert TEXT.findall(kept.read_text("utf-8")) == TEXT.findall(drawn.read_text("utf-8"))


@interpreted_suite_only
def test_figures_of_no_cases_are_empty_not_an_error(tmp_path: Path) -> None:
    assert len(figures.draw({"machine": {"caches_bytes": {}}, "cases": []}, tmp_path)) == 2 * len(
        figures.FIGURES
    )


CRASHES = """
import os

def bench_first(benchmark):
    benchmark.extra_info["question"] = "first"
    benchmark(int)

def bench_dies(benchmark):
    os._exit(1)
"""
FAILS = """
from pathlib import Path

def bench_missing(benchmark):
    benchmark.extra_info["question"] = "missing"
    benchmark((Path(__file__).parent / "there").read_text)

def bench_last(benchmark):
    benchmark.extra_info["question"] = "last"
    benchmark(int)
"""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of benchmarks, some of which fail; what is measured is stored there too."""
    (tmp_path / "conftest.py").write_text("from bench.conftest import *\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\npython_functions = bench_*\n")
    (tmp_path / "bench_a.py").write_text(CRASHES)
    (tmp_path / "bench_b.py").write_text(FAILS)
    run = tmp_path / "run"
    paths = {"FOLDER": tmp_path, "RUN": run, "STARTED": run / "started.json"}
    for name, path in (paths | {"CASES": run / "cases.jsonl"}).items():
        monkeypatch.setattr(__main__, name, path)
    return tmp_path


@interpreted_suite_only
def test_a_failure_costs_no_other_case_and_the_rest_can_be_measured_later(
    files: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    kept: list[Any] = []
    monkeypatch.setattr(__main__, "_store", lambda start, cases: kept.append((start, cases)))
    assert __main__.main(["--full"]) == 1
    assert "bench_a.py failed" in (err := capfd.readouterr().err)
    assert "bench_b.py failed" in err
    (files / "there").write_text("")
    (files / "bench_a.py").write_text(CRASHES.replace("os._exit(1)", "benchmark(int)"))
    assert __main__.main(["--resume"]) == 0
    assert __main__.main(["--finish"]) == 0
    questions = [[case.get("question") for case in cases] for _, cases in kept]
    every = ["first", "last", None, "missing"]
    assert questions == [every[:2], every, every]
    assert {start["arguments"][0] for start, _ in kept} == {"--full"}


@interpreted_suite_only
def test_a_run_is_resumed_at_the_commit_that_it_measures(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match="no run"):
        __main__.main(["--resume"])
    __main__.RUN.mkdir()
    start = {"arguments": [], "commit": "1234567", "neighbours": 0.0}
    __main__.STARTED.write_text(json.dumps(start))
    with pytest.raises(SystemExit, match="commit 1234567"):
        __main__.main(["--finish"])


ADDED: Any = {
    "machine": {
        "cpu": "Processor",
        "architecture": "x86_64",
        "microarchitecture": "sapphirerapids",
        "family_model_stepping": [6, 143, 8],
        "cores": 2,
        "caches_bytes": {"l2": 2 << 20},
        "date": "2026-11-27",
        "commit": "1234567",
    },
    "cases": [{"question": "sums", "size": 1}],
}


def test_a_part_takes_the_place_of_what_was_stored_for_it() -> None:
    stored = {**ADDED, "cases": [{"question": "sums", "size": 2}, {"question": "many", "size": 3}]}
    stored["machine"] = {**ADDED["machine"], "date": "2026-01-01", "commit": "7654321"}
    assert __main__.added(stored, ADDED) == {
        "machine": stored["machine"],
        "cases": [
            {"question": "many", "size": 3},
            {"question": "sums", "size": 1, "measured": {"date": "2026-11-27", "commit": "1234567"}},
        ],
    }


@pytest.mark.parametrize(
    "other", [{"family_model_stepping": [6, 173, 1]}, {"caches_bytes": {"l2": 1 << 20}}, {"cores": 4}]
)
def test_a_part_is_not_added_to_results_of_another_machine(other: dict[str, Any]) -> None:
    """Processors of several kinds may have one name."""
    stored = {**ADDED, "machine": {**ADDED["machine"], **other}}
    [(key, value)] = other.items()
    with pytest.raises(SystemExit, match=re.escape(f"{key} {ADDED['machine'][key]!r}, not {value!r}")):
        __main__.added(stored, ADDED)


def test_processors_of_one_name_have_files_of_their_own() -> None:
    kinds = "znver3", "znver5", "emeraldrapids"
    names = {machine.name({**ADDED["machine"], "microarchitecture": kind}) for kind in kinds}
    assert len(names) == len(kinds)


def test_ratios_are_formed_within_a_round() -> None:
    """A neighbour who doubles all times of a round changes no ratio."""
    ours, reference = [1.0, 2.0, 1.0, 2.0, 1.0], [3.0, 6.0, 3.0, 6.0, 3.0]
    band = measure.band(measure.ratios(reference, ours))
    assert band == {"median": 3.0, "low": 3.0, "high": 3.0}


def test_band_holds_the_middle_three_fifths() -> None:
    values = [float(k) for k in range(11)]
    assert measure.band(values) == {"median": 5.0, "low": 2.0, "high": 8.0}


def test_everyone_has_as_many_turns() -> None:
    samples = measure.interleave({"a": lambda: 0.001, "b": lambda: 0.002}, budget=0.0, enough=7)
    assert samples == {"a": [0.001] * 7, "b": [0.002] * 7}


def test_what_is_slow_has_only_a_few_turns() -> None:
    samples = measure.interleave({"a": lambda: 0.001, "b": lambda: 2.0}, budget=0.0)
    assert (len(samples["a"]), len(samples["b"])) == (measure.ENOUGH, measure.FEWEST)


@pytest.mark.parametrize("form", [*problems.FORMS, *problems.FAMILY], ids=lambda form: form.name)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_roofline_moves_the_bytes_and_changes_nothing(form: problems.Form, dtype: str) -> None:
    problem = problems.make(form, 1001, np.dtype(dtype))
    previous = {name: array.copy() for name, array in problem.arrays.items()}
    run, moved = roofline(problem, 1)
    for _ in range(3):
        run()
    for name, array in problem.arrays.items():
        np.testing.assert_array_equal(array, previous[name])
    assert moved in (problem.bytes_per_element, 2 * problem.grad.itemsize)


@pytest.mark.skipif(
    bool(numba.config.DISABLE_JIT), reason="large arrays, element by element in plain Python"
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("form", problems.FORMS, ids=lambda form: form.name)
def test_peers_agree(form: problems.Form, dtype: str) -> None:
    peers.check(form, 100_003, np.dtype(dtype), 1, {**peers.PEERS, **peers_numexpr.PEERS})


def test_a_peer_that_computes_something_else_is_noticed() -> None:
    def wrong(problem: problems.Problem, threads: int) -> peers.Step:
        return lambda: problem.arrays["param"].__isub__(problem.grad)

    with pytest.raises(AssertionError, match="by wrong"):
        peers.check(
            problems.RMSPROP,
            1000,
            np.dtype(np.float32),
            1,
            {"numpy_naive": peers.PEERS["numpy_naive"], "wrong": wrong},
        )


def test_tables_do_not_break_numbers() -> None:
    text = tables.table(["case", "time"], [["a b", "1.5 ms"]])
    assert "| a b | 1.5\N{NO-BREAK SPACE}ms |" in text


@interpreted_suite_only
def test_the_comparison_of_optimizers_shows_the_newest_results(tmp_path: Path) -> None:
    results = newest(comparison.RESULTS)
    page = comparison.PAGE.read_text("utf-8")
    for name, text in comparison.parts(results).items():
        assert report.insert_between(page, f"comparison:{name}", text) == page, name
    drawn = drawing.save(
        lambda figure: comparison.draw(results, figure), tmp_path, "which-one", (8.0, 6.4)
    )
    for path in drawn:
        kept = figures.FOLDER / path.name
        assert TEXT.findall(kept.read_text("utf-8")) == TEXT.findall(path.read_text("utf-8"))


def test_the_page_on_split_weights_has_the_stored_results(tmp_path: Path) -> None:
    results = newest(split_weights.RESULTS)
    page = split_weights.PAGE.read_text("utf-8")
    texts = split_weights.parts(results)
    assert texts.keys() == {"quality", "memory", "times", "machine"}
    for name, text in texts.items():
        assert text in page, name
        assert report.insert_between(page, f"split-weights:{name}", text) == page, name
    drawn = drawing.save(
        lambda figure: split_weights.draw(results, figure),
        tmp_path,
        split_weights.FIGURE,
        split_weights.SIZE,
    )
    for path in drawn:
        kept = figures.FOLDER / path.name
        assert TEXT.findall(kept.read_text("utf-8")) == TEXT.findall(path.read_text("utf-8"))


def test_what_is_measured_of_split_weights_is_what_the_page_claims() -> None:
    """Split 24 ends within the spread of float32, and needs at most 6 bytes a parameter."""
    results = newest(split_weights.RESULTS)
    losses = {name: ends["model"] for name, ends in results["quality"]["losses"].items()}
    base = losses[split_weights.FLOAT32]
    assert len(base) == 5
    assert abs(split_weights.off(losses[split_weights.SPLIT_24], base)) < 1
    for case in results["memory"]["cpu"]["untied"].values():
        assert case["peak"] > 0.97 * sum(case["counted"].values())
    assert results["memory"]["cpu"]["untied"][split_weights.SMALLEST]["peak"] < 6


def test_the_text_that_losses_are_of_is_always_the_same() -> None:
    whole = grammar.text()
    assert (len(whole), zlib.crc32(whole.encode())) == (grammar.CHARACTERS, 1285870114)
    assert whole[:-1000] == grammar.text(grammar.CHARACTERS - 1000)


def test_the_page_on_cuda_has_the_stored_results() -> None:
    page = gpu_report.PAGE.read_text("utf-8")
    assert "Measured on " in page
    assert gpu_report.page(page) == page


def test_the_page_on_mpi_has_the_stored_results() -> None:
    page = mpi_report.PAGE.read_text("utf-8")
    results = newest(mpi.RESULTS)
    assert mpi_report.page(page, results) == page
    assert mpi_report.measured(results) in page
