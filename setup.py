"""Builds celery_pool._poolcore; everything else is in pyproject.toml.

Switches (environment variables, off unless set):
  CELERY_POOL_DEBUG=1        invariants asserted, objects created and freed counted
  CELERY_POOL_SANITIZE=LIST  "address,undefined" or "thread"
  CELERY_POOL_COVERAGE=1     line tracing of the compiled code
  CELERY_POOL_WERROR=1       C warnings are errors
  CELERY_POOL_ANNOTATE=1     annotated HTML beside the generated C, in build/
"""

import os
import sys
from glob import glob

if sys.platform == "win32":
    sys.exit("celery_pool needs Linux or macOS: it does not run on Windows.")

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py


def switch(name):
    value = os.environ.get(f"CELERY_POOL_{name}", "")
    return "" if value == "0" else value


cflags = ["-std=gnu11", "-O3", "-fvisibility=hidden", "-Wall", "-Wextra"]
cflags += ["-Wno-unused-parameter", "-Wno-missing-field-initializers"]  # Cython's own
ldflags = []
macros = []
directives = {"language_level": "3", "binding": True}

if switch("DEBUG"):
    cflags += ["-O1", "-g3", "-UNDEBUG"]
    macros += [("CP_DEBUG", "1")]
if switch("SANITIZE"):
    sanitizers = [f"-fsanitize={switch('SANITIZE')}", "-fno-omit-frame-pointer", "-g"]
    cflags += sanitizers
    ldflags += sanitizers
if switch("COVERAGE"):
    directives["linetrace"] = True
    macros += [("CYTHON_TRACE", "1"), ("CYTHON_TRACE_NOGIL", "1")]
    cflags += ["-Wno-maybe-uninitialized"]  # the tracing code confuses gcc
if switch("WERROR"):
    cflags += ["-Werror"]
if switch("ANNOTATE"):
    from Cython.Compiler import Options

    Options.annotate = True


class build_poolcore(build_ext):
    def finalize_options(self):
        super().finalize_options()
        # no generated C in the source tree; only Cython's coverage plug-in looks for it there
        self.cython_c_in_temp = not switch("COVERAGE")
        self.cython_directives = directives
        self.force = True  # time stamps do not know the switches


class build_with_benchmarks(build_py):
    """`celery-pool bench` runs the suite of the checkout; a wheel carries a copy of it."""

    def run(self):
        super().run()
        if not self.editable_mode:
            for source, target in self.benchmarks():
                self.mkpath(os.path.dirname(target))
                self.copy_file(source, target, preserve_mode=False)

    def benchmarks(self):
        target = os.path.join(self.build_lib, "celery_pool", "_benchmarks")
        for source in sorted(glob("benchmarks/**/*.py", recursive=True)):
            if not os.path.basename(source).startswith("test_"):
                yield source, os.path.join(target, os.path.relpath(source, "benchmarks"))

    def get_outputs(self, include_bytecode=True):
        copied = [] if self.editable_mode else [target for _, target in self.benchmarks()]
        return super().get_outputs(include_bytecode) + copied


setup(
    cmdclass={"build_ext": build_poolcore, "build_py": build_with_benchmarks},
    ext_modules=[
        Extension(
            "celery_pool._poolcore",
            ["src/_poolcore.pyx"],
            depends=[
                "src/celery_pool/_poolcore.pxd",
                *sorted(glob("src/_poolcore/*.h") + glob("src/_poolcore/*.pxi")),
            ],
            include_dirs=["src"],
            define_macros=macros,
            extra_compile_args=cflags,
            extra_link_args=ldflags,
        )
    ],
)
