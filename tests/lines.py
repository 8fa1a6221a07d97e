"""Lines of the package as they are run: counted, and interrupted."""

import sys
from linecache import getline
from pathlib import Path

import fastopt

PACKAGE = str(Path(fastopt.__file__).parent)


class Lines:
    """Counts the lines of the package that are run, or of some functions, and raises at one of them.

    Attributes
    ----------
    count : int
        How many lines there were.
    place, text : str
        The line that was interrupted.
    """

    def __init__(self, stop=None, error=None, functions=()):
        self.stop, self.error, self.count, self.place, self.text = stop, error, 0, "", ""
        self._codes = {function.__code__ for function in functions}

    def _trace(self, frame, event, argument):
        code = frame.f_code
        if not (code in self._codes if self._codes else code.co_filename.startswith(PACKAGE)):
            return None
        if event == "line":
            self.count += 1
            if self.count == self.stop:
                self.place = f"{code.co_filename.removeprefix(PACKAGE)}:{frame.f_lineno}"
                self.text = getline(code.co_filename, frame.f_lineno).strip()
                raise self.error
        return self._trace

    def __enter__(self):
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_):
        sys.settrace(self._before)


def interrupted_at(line, step, error=KeyboardInterrupt, functions=()):
    """Run until the given line, which raises; False if there are not so many."""
    try:
        with Lines(line, error(), functions):
            step()
    except error:
        return True
    return False
