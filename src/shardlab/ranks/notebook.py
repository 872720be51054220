"""A notebook as a program: its cells run in IPython's own shell, as in Jupyter, but nobody is there, and no screen.

Magics, `!command`, top-level `await`, `display`, `_` and `Out` are the shell's. What is shown is its plain text. A cell
that asks a person with `input()` is left there.
"""

import ast
import atexit
import builtins
import getpass
import json
import os
import sys
import tempfile
import traceback
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, Popen

import torch
from IPython.core.compilerop import CachingCompiler
from IPython.core.displayhook import DisplayHook
from IPython.core.error import StdinNotImplementedError
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from shardlab.ranks.fates import from_the_cell_on

INLINE = "module://matplotlib_inline.backend_inline"  # Jupyter's: a figure is an output of its cell


def run_notebook(path, mesh, fates=None):
    """Run the code cells in order, as one program; end (with exit status 1) at the first error of any rank."""
    left_out = {"needs-a-person", "one-process"} if mesh.world else {"needs-a-person"}
    done, where, home = 0, path, os.getcwd()
    try:
        cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
        os.chdir(Path(path).parent)  # as Jupyter does
        with fresh_shell() as shell:
            for number, cell in enumerate(cells):
                if cell["cell_type"] == "code":
                    where, source = f"{path}, cell {number}", "".join(cell["source"])
                    if fates:
                        fates.begin(where)
                    try:
                        if left_out & set(cell["metadata"].get("tags", [])):
                            exec(compile(imports(source), where, "exec"), shell.user_ns)
                        else:
                            shell.run(source, where)
                            done += 1
                    except StdinNotImplementedError:
                        print(f"left there: {where}, which asks for input, and nobody is here to answer")
        if mesh.world:
            where = f"{path}, after its last cell"
            fates.begin(where)  # a verdict for all the ranks: each of them comes this far, and no further
            exec(compile("sum_ = mesh.all_reduce(mesh.rank * 1.0)", where, "exec"), {"mesh": mesh})
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        if mesh.world:
            fates.fail(where, error, told(error))
        print(f"FAILED on one process: {where}\n{told(error)}", file=sys.stderr)
        sys.exit(1)
    finally:
        os.chdir(home)
    print(f"passed: {path}, {done} cells on {f'{mesh.world} ranks' if mesh.world else 'one process'}", flush=True)


def imports(source):
    """What a cell imports. Where it is left out, other cells may use that.

    >>> imports("from shardlab import labs\\n\\nlabs.split()")
    'from shardlab import labs'
    """
    with suppress(SyntaxError):  # magics
        lines = [node for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom)]
        return "\n".join(map(ast.unparse, lines))
    return ""


def told(error):
    """The error and its traceback from the notebook's cell on."""
    said = traceback.TracebackException.from_exception(error)
    said.stack[:] = from_the_cell_on(said.stack)
    return "".join(said.format())


class CellNames(CachingCompiler):
    """In tracebacks, and where collectives are compared, a cell goes by its place in the notebook."""

    where = ""

    def get_code_name(self, *_):
        return self.where


class PlainOutput(DisplayHook):
    """What the last line amounts to is shown without a prompt before it."""

    prompt_end_newline = True

    def write_output_prompt(self):
        pass


class Shell(InteractiveShell):
    """IPython's shell, without a person, a screen, or a folder of its own; an error is raised, and not shown."""

    displayhook_class, compiler_class = PlainOutput, CellNames
    shown = None  # the first error of a cell that IPython would only show

    def run(self, source, where):
        self.compile.where, self.shown = where, None
        result = self.run_cell(source, store_history=True)
        if error := self.shown or result.error_before_exec or result.error_in_exec:
            raise error

    def showtraceback(self, exc_tuple=None, *_, **__):
        self.shown = self.shown or (exc_tuple or sys.exc_info())[1]

    def showsyntaxerror(self, *_, **__):
        self.showtraceback()

    def _format_exception_for_storage(self, *_, **__):
        """Nobody will read it, and the other ranks wait for a word of this one while it is made."""

    def ask_exit(self):
        raise SystemExit("exit()")

    def system(self, cmd):
        """Run `!cmd`, which has no input, and print what it says as it comes."""
        if cmd.rstrip().endswith("&"):
            raise OSError("what runs in the background would outlive the notebook")
        command, pipes = self.var_expand(cmd, depth=1), {"stdin": DEVNULL, "stdout": PIPE, "stderr": STDOUT}
        with Popen(command, shell=True, text=True, **pipes) as running:
            for line in running.stdout:
                print(line, end="", flush=True)
        self.user_ns["_exit_code"] = running.returncode

    def enable_gui(self, gui=None):
        """Nobody would see its windows."""

    def enable_matplotlib(self, gui=None):
        return super().enable_matplotlib("inline")


@contextmanager
def fresh_shell():
    """A shell such as a new kernel has, in the current folder; afterwards this process is as it was before."""
    here, path, known, environment = Path.cwd(), sys.path[:], set(sys.modules), dict(os.environ)
    asked, dtype = (builtins.input, getpass.getpass), torch.get_default_dtype()
    quiet = {"HistoryManager": {"enabled": False}, "InteractiveShell": {"colors": "nocolor", "display_page": True}}
    with tempfile.TemporaryDirectory() as nowhere:  # IPython wants a folder, and takes one in the user's home otherwise
        shell = Shell.instance(ipython_dir=nowhere, config=Config(quiet))
    shell.db = {}  # what %store keeps
    shell.extension_manager.load_extension("storemagic")  # as Jupyter does
    shell.display_formatter.active_types = ["text/plain"]
    shell.display_pub.clear_output = lambda wait=False: None
    shell.set_hook("editor", nobody)
    try:
        os.environ.setdefault("MPLBACKEND", INLINE)
        builtins.input = getpass.getpass = nobody
        sys.path.insert(0, "")  # a module beside the notebook
        with open(os.devnull) as sys.stdin, torch.enable_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "To exit: use")
            yield shell
    finally:
        builtins.input, getpass.getpass = asked
        forget({name: module for name, module in sys.modules.items() if name not in known}, here)
        torch.set_default_dtype(dtype)
        os.environ.clear()
        os.environ.update(environment)
        sys.path[:] = path
        shell.restore_sys_module_state()
        atexit.unregister(shell.atexit_operations)
        shell.atexit_operations()
        Shell.clear_instance()


def nobody(*_, **__):
    raise StdinNotImplementedError("this asks for input, and nobody is here to answer")


def forget(modules, folder):
    """Let go of the modules that lie in this folder: in the next notebook's, the same name means another one."""
    for name in modules:
        top = name.partition(".")[0]
        file = getattr(modules[name] if top == name else modules.get(top), "__file__", None)
        if file and Path(file).parent in (folder, folder / top):
            sys.modules.pop(name)
