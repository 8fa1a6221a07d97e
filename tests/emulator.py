"""The emulated GPU, if there is one, with the corrections that the tests need.

Nothing of fastopt is imported here: `bench.cuda_host` runs this with older checkouts of it.
"""

import functools
import gc
import os

EMULATED = bool(os.environ.get("GPU_EMULATOR"))


if EMULATED:
    import gpu_emulator
    import ptxsim

    # It would read a kernel's code anew for each launch, and count what every instruction moves, which
    # takes most of its time: the tests that ask for the counts turn that on.
    ptxsim.parse = functools.lru_cache(maxsize=64)(ptxsim.parse)
    gpu_emulator._TRACE = False

    # It looks memory up in a table that it does not make anew when memory is freed, be it before a
    # launch or, by the collector of garbage, amid one: it would find other memory.
    _remove, _launch = gpu_emulator.memory.remove, gpu_emulator.machine.launch

    def _remove_and_look_anew(address):
        _remove(address)
        gpu_emulator.memory._dirty = True

    def _launch_undisturbed(*arguments, **options):
        gc.disable()
        try:
            return _launch(*arguments, **options)
        finally:
            gc.enable()

    # Its narrow signed loads fill with zeros where the device fills with the sign.
    _machine = type(gpu_emulator.machine)
    _load_or_store = _machine.ldst

    def _load_with_sign(self, operation, operands, threads, text):
        _load_or_store(self, operation, operands, threads, text)
        if operation[0] == "ld" and operation[-1] in ("s8", "s16"):
            for register in operands[0].strip("{}").split(","):
                number = self.get(register.strip(), operation[-1], threads)
                self.put(register.strip(), number, threads)

    _machine.ldst = _load_with_sign
    gpu_emulator.memory.remove = _remove_and_look_anew
    gpu_emulator.machine.launch = _launch_undisturbed
