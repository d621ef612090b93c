# What apply_async is given, as the core needs it; what cannot be right is told at the call.

cdef tuple _NOT_ARGUMENTS = (str, bytes, bytearray, dict)

cdef object _partial = functools.partial


cdef tuple arguments_of(object args):
    """`args` that are no tuple yet: any iterable, but for those that are one argument."""
    cause = None
    if not isinstance(args, _NOT_ARGUMENTS):
        try:
            arguments = iter(args)
        except TypeError as error:
            cause = error
        else:
            return tuple(arguments)
    hint = "keyword arguments are kwargs" if isinstance(args, dict) else "one argument is (argument,)"
    raise _errors.WrongCall(
        f"args must be a tuple of arguments, not {type(args).__name__}: {hint}") from cause


cdef dict keywords_of(object kwargs):
    """A copy, or None if there are none."""
    if not isinstance(kwargs, dict) and not hasattr(kwargs, "keys"):
        raise _errors.WrongCall(f"kwargs must be a mapping, not {type(kwargs).__name__}")
    return dict(kwargs) or None


cdef object checked_callables(Core core, object given, str signature):
    """None, one callable, or a tuple of at least two. `signature` is how they are called."""
    # an on_return or on_ready of the user's own may call them in another way
    cdef Py_ssize_t count = -1 if core.overridden else 2
    if given is None:
        return None
    if type(given) is not list and type(given) is not tuple:
        if callable(given):
            return checked(given, count, signature)
        try:
            given = list(given)
        except TypeError:
            return checked(given, count, signature)     # which says what is wrong
    if len(given) == 1:
        return checked(given[0], count, signature)
    for one in given:
        checked(one, count, signature)
    return tuple(given) or None


cdef inline object checked(object given, Py_ssize_t count, str signature):
    """The callable, if it takes `count` arguments, as far as a look can tell; -1: any number."""
    if type(given) is _FunctionType and function_takes(given, count):
        return given
    if not callable(given):
        raise _errors.WrongCall(
            f"{signature.partition('(')[0]} must be callable, not {type(given).__name__}")
    if count >= 0 and not takes(given, count):
        raise _errors.WrongCall(f"{given!r} cannot be called as {signature}")
    return given


def check_callable(given, Py_ssize_t count, str signature):
    """TypeError if `given` cannot be called with `count` arguments, as `signature` says."""
    checked(given, count, signature)


cdef bint takes(object given, Py_ssize_t count) except -1:
    """False only if a call with `count` positional arguments would fail for certain. No
    inspect: callbacks are looked at once a task."""
    cdef int flags
    cdef PyObject *call
    if type(given) is _FunctionType:
        return function_takes(given, count)
    if PyMethod_Check(given):
        return takes(<object> PyMethod_GET_FUNCTION(given), count + 1)
    if PyCFunction_Check(given):
        flags = PyCFunction_GET_FLAGS(given)
        return not (flags & METH_NOARGS and count or flags & METH_O and count != 1)
    if type(given) is _partial:
        return bool(given.keywords) or takes(given.func, count + len(given.args))
    if PyType_Check(given):
        return True
    kind = type(given)
    call = _PyType_Lookup(<PyTypeObject *> kind, "__call__")
    if call != NULL and type(<object> call) is _FunctionType:
        return function_takes(<object> call, count + 1)
    return True


cdef inline bint function_takes(object function, Py_ssize_t count) noexcept:
    cdef PyCodeObject *code = <PyCodeObject *> PyFunction_GET_CODE(function)
    cdef PyObject *defaults
    cdef Py_ssize_t optional = 0
    if code.co_kwonlyargcount:
        defaults = PyFunction_GET_KW_DEFAULTS(function)
        if defaults == NULL or PyDict_Size(<object> defaults) < code.co_kwonlyargcount:
            return False
    if count == code.co_argcount:
        return True
    if count > code.co_argcount:
        return (code.co_flags & CO_VARARGS) != 0
    defaults = PyFunction_GET_DEFAULTS(function)
    if defaults != NULL:
        optional = PyTuple_GET_SIZE(<object> defaults)
    return count >= code.co_argcount - optional
