"""Numba's compiler without what fastopt has no use for: a fourth of the time of a first step.

Helpers become code that is linked into their callers, and what is called from outside becomes an object
file, which `machine_code` links into the process. Nothing is added to Numba's own engine.
"""

from __future__ import annotations

import sys

from llvmlite import binding
from numba import _dynfunc
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder, StateDict
from numba.core.compiler_machinery import register_pass
from numba.core.typed_passes import NativeLowering

from fastopt.kernels.machine_code import MachineCode


def import_array_functions() -> None:
    """Import Numba's array functions, which its first compilation does, without scipy.linalg.

    That takes 0.14 s, and they only note whether SciPy's BLAS is there. Functions that call
    BLAS, of which fastopt has none, import it when they are compiled.
    """
    if "numba.np.arraymath" in sys.modules:
        return
    from numba.np import linalg

    check, linalg.ensure_blas = linalg.ensure_blas, lambda: None
    try:
        import numba.np.arraymath  # noqa: F401
    finally:
        linalg.ensure_blas = check


class ObjectLibrary(JITCodeLibrary):  # type: ignore[misc]  # numba has no type hints
    """LLVM code that becomes an object file.

    Attributes
    ----------
    entry : str
        The name of the function that is called from outside.
    """

    entry: str = ""
    _final_module: binding.ModuleRef  # Numba's

    def _optimize_final_module(self) -> None:
        # So LLVM sees that a function cannot fail, and what is of no use then.
        for function in self._final_module.functions:
            if not function.is_declaration and function.name != self.entry:
                function.linkage = "internal"
        super()._optimize_final_module()
        # The last pass removes calls that count references, and the functions that they called stay.
        # LLVM links into another module what is used.
        used = binding.parse_assembly(str(self._codegen._create_empty_module(self.name)))
        used.link_in(self._final_module)
        self._final_module = used

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._verify_declare_only_symbols()
        self._finalized = True

    @property
    def machine_code(self) -> MachineCode:
        """The object file, once the library is finished."""
        module = self._final_module
        values = (*module.functions, *module.global_variables)
        imports = [value.name for value in values if value.is_declaration]
        imports = sorted(name for name in imports if not name.startswith("llvm."))
        object_file = self.codegen._tm.emit_object(module)
        return MachineCode(object_file, self.entry, tuple(imports), not self.has_dynamic_globals)


class LinkedLibrary(ObjectLibrary):
    """LLVM code that is linked into others, and optimized and made machine code only there."""

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True


@register_pass(mutates_CFG=True, analysis_only=False)
class LinkedLowering(NativeLowering):  # type: ignore[misc]  # as above
    """Numba's lowering, into a `LinkedLibrary`."""

    _name = "linked_lowering"

    def run_pass(self, state: StateDict) -> bool:
        """Lower the function, and make it known to the functions that call it."""
        context, code = state.targetctx, state.func_id
        library = state.library = LinkedLibrary(context.codegen(), code.func_qualname)
        state.flags.no_compile = True
        super().run_pass(state)
        result = state.cr
        # Numba knows a compiled function by an object of this type. This one cannot be called.
        name = _dynfunc.make_function(code.module, code.func_name, "", 0, result.env, (library,))
        context.insert_user_function(name, result.fndesc, [library])
        state.cr = result._replace(cfunc=name)
        return True


class LinkedCompiler(CompilerBase):  # type: ignore[misc]  # as above
    """Compiler of functions that only compiled code calls, to code that is linked and nothing else.

    Numba optimizes and generates machine code for every function, even if nobody can call it, before
    it is linked into its callers and compiled again.
    """

    def __init__(self, *arguments: object) -> None:
        import_array_functions()
        super().__init__(*arguments)

    def define_pipelines(self) -> list[DefaultPassBuilder]:
        """Numba's pipeline for functions without Python objects."""
        pipeline = DefaultPassBuilder.define_nopython_pipeline(self.state)
        pipeline.passes = [
            (LinkedLowering if each is NativeLowering else each, what) for each, what in pipeline.passes
        ]
        pipeline.finalize()
        return [pipeline]
