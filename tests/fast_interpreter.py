"""Makes Triton's interpreter about twice as fast; what it computes stays the same.

At every call of a device function it looks through the whole language for what it has already replaced, and at every
operation it works out how two blocks of one shape broadcast.
"""

import functools

from triton import language
from triton.language.semantic import TritonSemantic
from triton.runtime import interpreter


def hasten() -> None:
    replace, broadcast = interpreter._patch_lang, TritonSemantic.broadcast_impl_value

    @functools.cache
    def languages(function):
        return [v for v in function.__globals__.values() if v is language or v is language.core]

    def replace_once(function):
        if any(language.core.is_builtin(found.load) for found in languages(function)):
            return replace(function)
        return interpreter._LangPatchScope()

    def broadcast_different(self, lhs, rhs):
        same = lhs.type.is_block() == rhs.type.is_block() and lhs.handle.data.shape == rhs.handle.data.shape
        return (lhs, rhs) if same else broadcast(self, lhs, rhs)

    interpreter._patch_lang = replace_once
    TritonSemantic.broadcast_impl_value = broadcast_different
