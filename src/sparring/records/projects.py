"""A user's own file and the modules beside it, separate from all other projects.

Every project has a private package below this module, named by its folder. Its files are modules
of that package: `sparring.records.projects._<folder as hex>.nets`. An absolute import in such a
file finds modules in the order of a script: built-in ones, those of its own folder, then installed
ones, which all projects share. So two projects may each have a `layers.py` in one process. The name
encodes the folder, so a class of such a module can be pickled for any process on this machine.
"""

import builtins
import importlib
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.abc import MetaPathFinder
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    FrozenImporter,
    ModuleSpec,
    SourceFileLoader,
    SourcelessFileLoader,
)
from importlib.util import spec_from_file_location
from itertools import takewhile
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote, unquote

from sparring.records.files import open_regular

__path__: list[str] = []
"""Makes this module a package, with modules only from the finder below."""

LARGEST_SOURCE = 16 << 20
"""Most bytes of a source file."""
ROOT = "/./"
"""Marks the project's folder in a file's path, as in rsync; by default the file's folder."""


@dataclass(kw_only=True, eq=False)
class Project:
    """The search path of a project and its results."""

    name: str
    """Name of its private package."""
    folder: str
    """Folder of the named file."""
    first: list[str]
    """Folders searched before installed modules."""
    last: list[str]
    """Folders searched after them."""
    folders: list[str] = field(init=False)
    """All of them; the search path of the private package."""
    hidden: dict[str, str] = field(default_factory=dict)
    """The project's files that were imported by the name of an installed module."""
    _own: dict[str, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folders = [*self.first, *self.last]

    def search(self, first: Sequence[str], last: Sequence[str]) -> None:
        """Add folders before and after all others."""
        self.first = list(dict.fromkeys([*first, *self.first]))
        self.last = list(dict.fromkeys([*self.last, *last]))
        if self.folders != [*self.first, *self.last]:
            self.folders[:] = [*self.first, *self.last]
            self._own.clear()

    def owns(self, top: str, file: str = "") -> bool:
        """Whether `import top` in `file` means a module of the project.

        In a file of the same name it means the installed one, if there is one.
        """
        self.search(*_added_folders())
        if top not in self._own:
            self._own[top] = self._finds(top)
        return self._own[top] and self.hidden.get(top) != file

    def _finds(self, top: str) -> bool:
        if top in sys.builtin_module_names or FrozenImporter.find_spec(top) is not None:
            return False
        own, shared = found_in(self.first, top), shared_origin(top)
        if own is None or own.origin is None:  # a folder without __init__.py gives way to a module
            return shared in (None, top) and found_in(self.folders, top) is not None
        if shared is None:
            return True
        if os.path.realpath(own.origin) == os.path.realpath(shared):
            return False
        self.hidden[top] = own.origin
        return True

    def import_(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        """As the built-in `__import__`, for the files of this project."""
        top = name.partition(".")[0]
        if level or not self.owns(top, str((globals or {}).get("__file__", ""))):
            module = builtins.__import__(name, globals, locals, fromlist or (), level)
            return self._importlib if module is importlib else module
        if fromlist:
            return builtins.__import__(f"{self.name}.{name}", globals, locals, fromlist, 0)
        importlib.import_module(f"{self.name}.{name}")
        return sys.modules[f"{self.name}.{top}"]

    def import_module(self, name: str, package: str | None = None) -> ModuleType:
        """As `importlib.import_module`, for the files of this project."""
        if not name.startswith(".") and self.owns(name.partition(".")[0]):
            name = f"{self.name}.{name}"
        return importlib.import_module(name, package)

    @property
    def _importlib(self) -> ModuleType:
        """`importlib` with this project's `import_module`."""
        module = ModuleType("importlib", importlib.__doc__)
        module.__getattr__ = lambda name: getattr(importlib, name)  # type: ignore[method-assign]
        module.import_module = self.import_module  # type: ignore[attr-defined]
        return module

    @property
    def builtins(self) -> dict[str, object]:
        """Built-in names of its files."""
        return {**vars(builtins), "__import__": self.import_}


def module_of(path: Path, root: Path | None) -> tuple[Project, str]:
    """The project of a file, and its full module name; nothing runs.

    The project begins at `root`, a folder around the file, or else at the file's folder.
    """
    folder, package = path.parent, _package_root(path.parent)
    if root is None or root not in folder.parents:
        root = folder
    project = _project(f"{root}{ROOT}{folder.relative_to(root)}" if root != folder else str(folder))
    base = package if package != folder else root
    parts = list(path.relative_to(base).with_suffix("").parts)
    if parts[-1] == "__init__" and len(parts) > 1:
        parts.pop()
    found = all(map(str.isidentifier, parts)) and found_in(project.folders, parts[0])
    for part in parts[1:] if found else ():
        found = found and found_in(found.submodule_search_locations or [], part)
    if found and found.origin == str(path):
        return project, ".".join([project.name, *parts])
    exact = quote(path.name, safe="").replace(".", "%2e")  # another module has the usual name
    return project, f"{project.name}.{exact}"


def readable(text: str) -> str:
    """The text without the private packages in module names."""
    for name in _PROJECTS:
        text = text.replace(f"{__name__}.{name}.", "")
    return text


@contextmanager
def running(project: Project | None) -> Iterator[None]:
    """Run code of a project; folders that it adds to `sys.path` stay private to it."""
    if _before:
        yield
        return
    _before.append(list(sys.path))
    try:
        yield
    finally:
        if project is not None:
            project.search(*_added_folders())
        sys.path[:] = [entry for entry in sys.path if entry in _before[0]]
        _before.clear()


def found_in(folders: Iterable[str], name: str) -> ModuleSpec | None:
    """The first module of this name in the folders; nothing runs."""
    return _spec(name, folders, SourceFileLoader)


def shared_origin(top: str) -> str | None:
    """The file of a module that all projects share, or its name without a file; nothing runs."""
    loaded = sys.modules.get(top)
    if loaded is not None:
        return str(getattr(loaded, "__file__", None) or top)
    spec = shared_spec(top, apart_from=_added())
    return None if spec is None else spec.origin or top


def shared_spec(name: str, apart_from: Collection[str] = ()) -> ModuleSpec | None:
    """The module that Python finds without some entries of `sys.path`; nothing runs."""
    before = list(sys.path)
    sys.path[:] = [entry for entry in before if entry not in apart_from]
    try:
        return _shared_spec(name)
    finally:
        sys.path[:] = before


def _shared_spec(name: str) -> ModuleSpec | None:
    folders: Iterable[str] | None = None
    spec = None
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        full = ".".join(parts[:end])
        finders = [finder for finder in sys.meta_path if hasattr(finder, "find_spec")]
        found = (finder.find_spec(full, folders, None) for finder in finders)
        spec = next((each for each in found if each is not None), None)
        if spec is None:
            return None
        folders = spec.submodule_search_locations or []
    return spec


_PROJECTS: dict[str, Project] = {}
"""Projects of this process, by the last part of their names."""
_before: list[list[str]] = []
"""`sys.path` from before the project's code that is running."""


class _Source(SourceFileLoader):
    """Source of a project; bytecode is neither read nor written."""

    def __init__(self, fullname: str, path: str, project: Project) -> None:
        super().__init__(fullname, path)
        self.project = project

    def path_stats(self, path: str) -> Mapping[str, Any]:  # pyright: ignore
        raise OSError("no bytecode")

    def get_data(self, path: str) -> bytes:
        with open_regular(path, LARGEST_SOURCE) as file:
            return file.read()

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__builtins__"] = self.project.builtins
        super().exec_module(module)


class _Finder(MetaPathFinder):
    """Finds projects by their names, and their modules in their folders."""

    def find_spec(
        self, fullname: str, path: Iterable[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(f"{__name__}."):
            return None
        head, _, rest = fullname.removeprefix(f"{__name__}.").partition(".")
        project = _PROJECTS.get(head) or _decoded(head)
        if project is None:
            return None
        if not rest:
            return _package(fullname, project.folders)

        def loader(name: str, file: str) -> _Source:
            return _Source(name, file, project)

        if "%" not in rest:
            return _spec(fullname, path or (), loader)
        file = Path(project.folder, unquote(rest))
        return spec_from_file_location(fullname, str(file), loader=loader(fullname, str(file)))


def _spec(
    name: str, folders: Iterable[str], source: Callable[[str, str], SourceFileLoader]
) -> ModuleSpec | None:
    """As Python's own search: modules and packages come before folders without `__init__.py`."""
    parts: list[str] = []
    for folder in folders:
        finder = FileFinder(
            folder,
            (ExtensionFileLoader, EXTENSION_SUFFIXES),
            (source, SOURCE_SUFFIXES),  # pyright: ignore
            (SourcelessFileLoader, BYTECODE_SUFFIXES),
        )
        spec = finder.find_spec(name)
        if spec is not None and spec.loader is not None:
            return spec
        if spec is not None:
            parts += spec.submodule_search_locations or []
    return _package(name, parts) if parts else None


def _package(name: str, folders: list[str]) -> ModuleSpec:
    spec = ModuleSpec(name, None, is_package=True)
    spec.submodule_search_locations = folders
    return spec


def _package_root(folder: Path) -> Path:
    """The folder that contains the outermost package around this folder; else the folder itself."""
    for inner in (folder, *folder.parents):
        if not (inner.name.isidentifier() and (inner / "__init__.py").is_file()):
            return inner
    return folder


def _project(text: str) -> Project:
    """The project of a folder, or of a root and a folder below it."""
    key = "_" + text.encode(errors="surrogateescape").hex()
    if key not in _PROJECTS:
        root, _, below = text.partition(ROOT)
        folder = Path(root, below)
        package = _package_root(folder)
        roots = [root] if below and root != str(package) else []
        first, last = [str(package), *roots], []
        if package != folder:
            last = [str(folder)]
        name = f"{__name__}.{key}"
        _PROJECTS[key] = Project(name=name, folder=str(folder), first=first, last=last)
        _PROJECTS[key].search([], [])
    return _PROJECTS[key]


def _decoded(key: str) -> Project | None:
    """The project of such a name, decoded in a new process."""
    try:
        text = bytes.fromhex(key.removeprefix("_")).decode(errors="surrogateescape")
    except ValueError:
        return None
    return _project(text) if Path(text).is_absolute() else None


def _added() -> list[str]:
    """Entries of `sys.path` that the running code of a project added."""
    return [entry for entry in sys.path if entry not in _before[0]] if _before else []


def _added_folders() -> tuple[list[str], list[str]]:
    """Added folders before and after the earlier entries, absolute."""
    added = _added()
    ahead = list(takewhile(lambda entry: entry in added, sys.path))
    return (
        [str(Path(entry).absolute()) for entry in ahead],
        [str(Path(entry).absolute()) for entry in added if entry not in ahead],
    )


sys.meta_path.insert(0, _Finder())
