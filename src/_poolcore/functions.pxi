# Functions by id: a target whose pickle is a bare global travels once to each
# worker and is then named by a number.

from types import BuiltinFunctionType, FunctionType, ModuleType

cdef object _FunctionType = FunctionType
cdef object _BuiltinFunctionType = BuiltinFunctionType


@cython.final
cdef class Function:
    pass


cdef Function function_for(Core core, object target):
    """The cached function, or None: then the target has to go with the task."""
    cdef Function function
    if target is core.functions.last_target:
        return core.functions.last
    function = core.functions.by_id.get(id(target))
    if function is None:
        if not has_no_state(target):
            return None
        pickled = _functions.pickled_global(target, core.codec.dumps)
        if pickled is None:
            return None
        if len(core.functions.by_id) >= CP_FUNCTIONS:
            core.functions.by_id.clear()      # jobs keep what they need
        function = Function.__new__(Function)
        function.target = target
        function.pickled = pickled
        core.functions.last_fid += 1
        function.fid = core.functions.last_fid
        core.functions.by_id[id(target)] = function
        show_name(core, function)
    core.functions.last_target = target
    core.functions.last = function
    return function


cdef bint has_no_state(object target):
    """Plain functions, classes and module-level builtins. The rest (bound
    methods, partials ...) carries data that may change between two tasks."""
    if type(target) is _FunctionType or PyType_Check(target):
        return True
    return (type(target) is _BuiltinFunctionType and
            (target.__self__ is None or isinstance(target.__self__, ModuleType)))
