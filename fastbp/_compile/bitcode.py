"""A Numba compiler for kernels that stops at LLVM code, which callers link and inline.

Numba would optimise each function and turn it into machine code, and then do so again within every function that calls it. A
kernel only ever runs within its callers. Leaving out its own machine code saves a quarter of the whole time of compiling.
"""
from numba import _dynfunc
from numba.core import compiler
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler_machinery import register_pass
from numba.core.typed_passes import NativeLowering

from . import notice


class _Bitcode(JITCodeLibrary):
    """A library of LLVM code as it was generated, to be linked into other libraries."""

    def _optimize_functions(self, ll_module):
        ll_module.data_layout = self._codegen._data_layout

    def _optimize_final_module(self):
        """Optimise only a kernel that LLVM is told to inline: without this, inner loops are up to 1.3 times slower."""
        if self.is_inlined:
            passes, builder = self._codegen._module_pass_manager(loop_vectorize=False, slp_vectorize=False, opt=3, cost="cheap")
            passes.run(self._final_module, builder)

    def _finalize_final_module(self):
        self._finalize_dynamic_globals()
        self._finalized = True


@register_pass(mutates_CFG=True, analysis_only=False)
class _Lowering(NativeLowering):
    """Numba's lowering pass, but into a _Bitcode, and with 0 as the address of the function that Python would call."""

    _name = "fastbp_kernel_lowering"

    def run_pass(self, state):
        notice.look()
        library = state.library = _Bitcode(state.targetctx.codegen(), state.func_id.func_qualname)
        library.is_inlined = state.flags.forceinline
        state.flags.no_compile = True
        super().run_pass(state)
        lowered = state["cr"]
        library.finalize()
        about = lowered.fndesc
        function = _dynfunc.make_function(about.lookup_module(), about.qualname, "", 0, lowered.env, (library,))
        state.targetctx.insert_user_function(function, about, [library])
        state.reload_init.extend(library._reload_init)
        state["cr"] = lowered._replace(cfunc=function)
        return True


class Compiler(compiler.CompilerBase):
    """Numba's pipeline of passes with the last one replaced by _Lowering."""

    def define_pipelines(self):
        pipeline = compiler.DefaultPassBuilder.define_nopython_pipeline(self.state)
        pipeline.passes = [(_Lowering if step is NativeLowering else step, why) for step, why in pipeline.passes]
        pipeline.finalize()
        return [pipeline]
