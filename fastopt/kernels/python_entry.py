"""The function by which Python calls compiled code, emitted beside it.

Numba's own needs Numba's runtime at every call: it makes an object for each array, and allocates it.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import types
from numba.core.codegen import CodeLibrary
from numba.core.funcdesc import FunctionDescriptor
from numba.core.pythonapi import PythonAPI

from fastopt.arrays.object_layout import DATA, NDIM_AT, OBJECT_TYPE, SHAPE_AT
from fastopt.kernels.intrinsics import Builder, Context, Type, Value
from fastopt.kernels.llvm_operations import I8, I32, I64

_OBJECT = I8.as_pointer()
# Of METH_FASTCALL: with what the function belongs to, the arguments, and their number.
_ENTRY = ir.FunctionType(_OBJECT, [_OBJECT, _OBJECT.as_pointer(), I64])


def emit_entry(
    context: Context, library: CodeLibrary, function: FunctionDescriptor, *, nogil: bool
) -> str:
    """Emit the entry of a function into its library, and return its name.

    The function may take numbers and C-contiguous arrays of NumPy. Nothing checks the dtypes of these:
    another array would be read as one of this dtype.
    """
    module = library.create_ir_module("entry")
    entry = ir.Function(module, _ENTRY, f"entry_{function.llvm_func_name}")
    builder = ir.IRBuilder(entry.append_basic_block())
    api = context.get_python_api(builder)
    array_class, items, count = entry.args
    expected = len(function.argtypes)
    wrong_count = builder.icmp_signed("!=", count, I64(expected))
    _fail_if(builder, api, wrong_count, f"{function.qualname} takes {expected} arguments")
    arguments = []
    for number, kind in enumerate(function.argtypes):
        item = builder.load(builder.gep(items, [I64(number)]))
        if isinstance(kind, types.Array):
            wrong = (
                f"argument {number} of {function.qualname} must be an array of {kind.ndim} dimensions"
            )
            _fail_if(builder, api, _is_unlike(builder, item, array_class, kind.ndim), wrong)
            arguments.append(_array(context, builder, kind, item))
        else:
            native = api.to_native_value(kind, item)
            with builder.if_then(native.is_error, likely=False):
                builder.ret(_OBJECT(None))
            arguments.append(native.value)
    compiled = context.declare_function(module, function)
    thread = api.save_thread() if nogil else None
    status, result = context.call_conv.call_function(
        builder, compiled, function.restype, function.argtypes, arguments
    )
    if nogil:
        api.restore_thread(thread)
    with builder.if_then(status.is_error, likely=False):
        context.call_conv.raise_error(builder, api, status)
        builder.ret(_OBJECT(None))
    builder.ret(api.from_native_return(function.restype, result, api.get_env_manager))
    library.add_ir_module(module)
    return str(entry.name)


def _fail_if(builder: Builder, api: PythonAPI, wrong: Value, message: str) -> None:
    with builder.if_then(wrong, likely=False):
        api.err_set_string("PyExc_TypeError", message)
        builder.ret(_OBJECT(None))


def _word(builder: Builder, item: Value, offset: int, kind: ir.Type = I64) -> Value:
    """A word of an object's header."""
    at = builder.gep(builder.bitcast(item, _OBJECT), [I64(offset)])
    return builder.load(builder.bitcast(at, kind.as_pointer()))


def _is_unlike(builder: Builder, item: Value, array_class: Value, ndim: int) -> Value:
    """Emit whether an object is no array, or one of another number of dimensions."""
    kind = _word(builder, item, OBJECT_TYPE, _OBJECT)
    is_subtype = ir.FunctionType(I32, [_OBJECT, _OBJECT])
    subtype = builder.module.globals.get("PyType_IsSubtype")
    if subtype is None:
        subtype = ir.Function(builder.module, is_subtype, "PyType_IsSubtype")
    entry = builder.block
    with builder.if_then(builder.icmp_unsigned("!=", kind, array_class), likely=False):
        derived = builder.icmp_signed("==", builder.call(subtype, [kind, array_class]), I32(0))
        asked = builder.block
    is_none = builder.phi(ir.IntType(1))
    is_none.add_incoming(ir.IntType(1)(0), entry)
    is_none.add_incoming(derived, asked)
    other = builder.icmp_signed("!=", _word(builder, item, NDIM_AT, I32), I32(ndim))
    return builder.or_(is_none, other)


def _array(context: Context, builder: Builder, kind: Type, item: Value) -> Value:
    """Numba's form of an array, which the caller keeps: references to it are not counted."""
    from numba.np.arrayobj import populate_array  # after `import_array_functions`

    lengths = builder.bitcast(_word(builder, item, SHAPE_AT, _OBJECT), I64.as_pointer())
    shape = [builder.load(builder.gep(lengths, [I64(axis)])) for axis in range(kind.ndim)]
    itemsize = I64(context.get_abi_sizeof(context.get_data_type(kind.dtype)))
    strides = [itemsize]
    for length in shape[:0:-1]:
        strides.insert(0, builder.mul(strides[0], length))
    array = context.make_array(kind)(context, builder)
    data = builder.bitcast(_word(builder, item, DATA, _OBJECT), array.data.type)
    populate_array(array, data, shape, strides[: kind.ndim], itemsize, None)
    return array._getvalue()
