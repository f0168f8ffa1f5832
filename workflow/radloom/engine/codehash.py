"""A hash of the code that decides a step's numbers: its script and the project's modules that it imports.

Comments, docstrings and layout don't change it, and neither does the engine, which decides when a step runs
and never what it computes, nor the reading of the configuration, of which a step takes what its plan says. What fetches
series from servers counts for the cases that have a URL alone (`radloom.engine.sources`).
"""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path
from typing import Any

PACKAGE = "radloom"
TRANSPORT = f"{PACKAGE}.dicom.web"
WITHOUT = ("radloom.engine", "radloom.config", TRANSPORT)


# What is known of a module with that content: its digest, and the modules that it imports.
Known = dict[str, list[Any]]


def code_hash(workflow: Path, script: str, known: Known) -> str:
    """Return the sha256 over the syntax trees of `scripts/<script>.py` and all modules of radloom that it reaches.

    `workflow` is the folder that holds `scripts/` and `radloom/`. Imports inside functions count too. Files of
    the package that a module reads as data (templates) are part of the hash of the package that holds them.
    `known` spares parsing what was parsed before; what is new is added to it.
    """
    start = workflow / "scripts" / f"{script}.py"
    found: dict[str, str] = {}
    queue = [(f"scripts.{script}", start)]
    while queue:
        name, path = queue.pop()
        if name in found:
            continue
        source = path.read_bytes()
        compiled = path.with_suffix(".c")  # what `<module>.c` computes is part of `<module>.py`
        if compiled.is_file():
            found[f"{name}.c"] = hashlib.sha256(compiled.read_bytes()).hexdigest()
        key = f"{name}:{hashlib.sha256(source).hexdigest()}"
        if key not in known:
            known[key] = list(_parse(source, name, package=path.name == "__init__.py"))
        digest, imports = known[key]
        found[name] = digest
        for imported in imports:
            for module in _ancestors(imported):
                file = _module_file(workflow, module)
                if file is not None and module not in found:
                    queue.append((module, file))
    whole = hashlib.sha256()
    for name in sorted(found):
        whole.update(f"{name}:{found[name]}\n".encode())
    if f"{PACKAGE}.report" in found:
        for template in sorted((workflow / PACKAGE / "templates").glob("*")):
            whole.update(f"{template.name}:".encode() + template.read_bytes())
    return whole.hexdigest()


def module_digest(workflow: Path, module: str) -> str:
    """Return the sha256 over the syntax tree of one module alone."""
    path = workflow.joinpath(*module.split(".")).with_suffix(".py")
    return _parse(path.read_bytes(), module, package=False)[0]


def _ancestors(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[: n + 1]) for n in range(len(parts))]


def _module_file(workflow: Path, module: str) -> Path | None:
    if module.split(".")[0] != PACKAGE or any(module == left or module.startswith(left + ".") for left in WITHOUT):
        return None
    base = workflow.joinpath(*module.split("."))
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None  # a name imported from a module, not a module


def _parse(source: bytes, name: str, package: bool) -> tuple[str, list[str]]:
    tree = ast.parse(source)
    imports: list[str] = []
    inside = name if package else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = inside.split(".")
                parents = parents[: len(parents) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            imports += [base] + [f"{base}.{alias.name}" for alias in node.names]
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            _drop_docstring(node)
    digest = hashlib.sha256(ast.dump(tree, include_attributes=False).encode()).hexdigest()
    return digest, sorted(set(imports))


def _drop_docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> None:
    first = node.body[0] if node.body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        node.body = node.body[1:]
