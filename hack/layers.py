#!/usr/bin/env python3
"""Checks the direction of dependencies between the modules of src/.

    hack/layers.py            prints each wrong import (exit status 1), or nothing
    hack/layers.py --graph    prints the modules and what each of them imports

A module may import the modules above it in ORDER. The script ignores test code (`#[cfg(test)]` modules and files named
tests.rs). An import of a name that a parent module re-exports counts as an import of the file that defines the name.

The script also checks that the modules and the types of one provider appear only in the files of this provider and in the files of
PROVIDER_LISTS.
"""
import re
import sys
from collections import defaultdict
from pathlib import Path

# Modules may import modules of the lines above. Modules of the same line may not import each other.
ORDER = [
    ["api"],
    ["core", "telemetry"],
    ["net", "conformance", "reconcile", "fairness"],
    ["provider"],
    ["notifications"],
    ["controller"],
    ["cli"],
    ["lib", "main"],
]
# For these modules ORDER allows too much. Each may import only the listed modules.
ONLY = {
    "api": set(),
    "telemetry": {"api"},
    "core": {"api"},
    "reconcile": {"api", "core"},
    "net": set(),
    "fairness": set(),
    "conformance": {"api", "core"},
    "provider": {"api", "core", "net", "conformance"},
    "notifications": {"api", "core", "net", "telemetry", "fairness"},
}
# The layers of the module core. A file may import files of its own line and of the lines above. The other files of core
# form the first layer, and these files may not import a file of this list.
CORE = [
    ["facts", "grant_facts"],
    ["policy", "access_rule", "enforce", "temporary_credentials"],
    ["step", "grant_secret"],
    ["decide"],
]
# Only these files may name a provider. The rest of the crate must not depend on which providers exist. A provider's own files
# are src/provider/NAME.rs, the folder src/provider/NAME/ and src/api/store/NAME.rs.
PROVIDER_LISTS = [("api", "store"), ("provider",)]
SRC = Path(__file__).resolve().parent.parent / "src"


def modules():
    """Maps the path of each module (a tuple of names) to its file."""
    found = {}
    for file in sorted(SRC.rglob("*.rs")):
        parts = list(file.relative_to(SRC).with_suffix("").parts)
        if parts[-1] == "mod":
            parts.pop()
        if parts in (["lib"], ["main"]):
            found[(parts[0],)] = file
        elif parts[-1] != "tests" and "tests" not in parts:
            found[tuple(parts)] = file
    return found


def code(text):
    """Returns the text without comments and test modules."""
    text = re.sub(r"//[^\n]*", "", text)
    text = re.sub(r"#\[cfg\(test\)\]\s*mod \w+;", "", text)
    found = re.search(r"#\[cfg\(test\)\]\s*(pub(\([a-z]+\))? )?mod \w+ \{", text)
    return text[: found.start()] if found else text


def split(body):
    out, depth, current = [], 0, ""
    for char in body:
        depth += (char == "{") - (char == "}")
        if char == "," and depth == 0:
            out.append(current.strip())
            current = ""
        else:
            current += char
    return [item for item in [*out, current.strip()] if item]


def flatten(tree, prefix=()):
    """Returns the paths of a use tree, each with its local name."""
    tree = tree.strip()
    head, brace, rest = tree.partition("{")
    if not brace:
        name = tree.split(" as ")[0].strip()
        path = [part.strip() for part in name.split("::")]
        if path[-1] == "self":
            path.pop()
        return [(prefix + tuple(path), tree.split(" as ")[-1].split("::")[-1].strip())]
    before = tuple(part for part in head.strip().rstrip(":").split("::") if part)
    return [found for item in split(rest.rsplit("}", 1)[0]) for found in flatten(item, prefix + before)]


def absolute(path, module, known):
    """Returns the path from the root of the crate, or None for a path into another crate."""
    module, path = list(module), list(path)
    if module in (["lib"], ["main"]):
        module = []
    if path[0] in ("crate", "valet"):
        return tuple(path[1:])
    if path[0] == "self":
        return tuple(module + path[1:])
    if path[0] == "super":
        while path and path[0] == "super":
            path.pop(0)
            module = module[:-1]
        return tuple(module + path)
    local = tuple(module + path[:1])
    return tuple(module + path) if local in known else None


class Crate:
    def __init__(self):
        self.files = modules()
        self.uses, self.exports = {}, defaultdict(dict)
        for module, file in self.files.items():
            text = code(file.read_text())
            self.uses[module] = []
            for found in re.finditer(r"(?m)^\s*(pub(?:\([a-z: ]+\))? )?use ([^;]+);", text):
                for path, name in flatten(found[2]):
                    target = absolute(path, module, self.files)
                    if target is None:
                        continue
                    if found[1]:
                        self.exports[module][name] = target
                    else:
                        self.uses[module].append(target)
            rest = re.sub(r"(?m)^\s*(?:pub(?:\([a-z: ]+\))? )?use [^;]+;", "", text)
            for found in re.finditer(r"\b(?:crate|super)(?:::\w+)+", rest):
                target = absolute(found[0].split("::"), module, self.files)
                if target:
                    self.uses[module].append(target)
            # A parent module can call `child::function()` without an import.
            for found in re.finditer(r"(?<![:\w])([a-z_]\w*)::\w+", rest):
                child = module + (found[1],) if module not in (("lib",), ("main",)) else (found[1],)
                if child in self.files:
                    self.uses[module].append(child)

    def resolve(self, path, depth=0):
        """Returns the module that defines the item with this path, or None."""
        for length in range(len(path), 0, -1):
            module = path[:length]
            if module in self.files:
                if length < len(path) and depth < 8:
                    name = path[length]
                    target = self.exports[module].get(name)
                    if target and target != path:
                        return self.resolve(target + path[length + 1 :], depth + 1)
                return module
        return None

    def edges(self):
        graph = defaultdict(set)
        for module, targets in self.uses.items():
            for target in targets:
                found = self.resolve(target)
                if found and found != module:
                    graph[module].add(found)
        return graph


def provider_of(module, providers):
    """Returns the provider that a file belongs to, or None."""
    for start in (("provider",), ("api", "store")):
        if module[: len(start)] == start and len(module) > len(start) and module[len(start)] in providers:
            return module[len(start)]
    return None


def provider_names(crate, graph):
    """Returns a message for each file that uses a module or a type of one provider, but is not allowed to."""
    providers = {folder.name for folder in (SRC / "provider").iterdir() if folder.is_dir()}
    providers = {name for name in providers if ("api", "store", name) in crate.files}
    wrong = []
    for module, file in sorted(crate.files.items()):
        own = provider_of(module, providers)
        found = {provider_of(target, providers) for target in graph.get(module, ())}
        found.discard(None)
        if module not in PROVIDER_LISTS and "ProviderConfig::" in code(file.read_text()):
            wrong.append(f"{file.relative_to(SRC.parent)} names a variant of ProviderConfig; only src/api/store.rs and src/provider/mod.rs may name providers")
        if module in PROVIDER_LISTS:
            continue
        for name in sorted(found - {own}):
            wrong.append(f"{file.relative_to(SRC.parent)} uses a module or a type of the provider {name}; use the traits of src/provider/abilities.rs instead")
    return wrong


def circles(graph):
    """Returns the strongly connected components with more than one file (Tarjan's algorithm)."""
    index, low, on, stack, found = {}, {}, set(), [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        on.add(node)
        for other in sorted(graph.get(node, ())):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in on:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            part = []
            while True:
                other = stack.pop()
                on.discard(other)
                part.append(other)
                if other == node:
                    break
            if len(part) > 1:
                found.append(sorted(part))

    for node in sorted(set(graph) | {n for targets in graph.values() for n in targets}):
        if node not in index:
            visit(node)
    return found


def main():
    crate = Crate()
    graph = crate.edges()
    rank = {name: number for number, line in enumerate(ORDER) for name in line}
    layer = {name: number for number, line in enumerate(CORE, 1) for name in line}
    wrong = []
    between = defaultdict(set)
    for module, targets in sorted(graph.items()):
        for target in sorted(targets):
            here, there = module[0], target[0]
            if here == there:
                if here == "core" and len(module) > 1 < len(target) and layer.get(module[1], 0) < layer.get(target[1], 0):
                    names = "::".join(target)
                    wrong.append(f"{crate.files[module].relative_to(SRC.parent)} imports {names}, which is in a later layer of CORE in hack/layers.py")
                continue
            between[here].add(there)
            allowed = ONLY.get(here)
            if here not in rank or there not in rank:
                wrong.append(f"{crate.files[module].relative_to(SRC.parent)}: unknown module {here if here not in rank else there}; add it to ORDER in hack/layers.py")
            elif there in ("lib", "main"):
                continue
            elif rank[there] >= rank[here] or (allowed is not None and there not in allowed):
                names = "::".join(target)
                wrong.append(f"{crate.files[module].relative_to(SRC.parent)} imports {names}: {here} may not import {there}")
    wrong += provider_names(crate, graph)
    for circle in circles(graph):
        files = ", ".join(str(crate.files[module].relative_to(SRC.parent)) for module in circle)
        wrong.append(f"these files import each other in a circle: {files}")
    if "--graph" in sys.argv:
        for name in sorted(rank, key=rank.get):
            print(f"{name:14} -> {', '.join(sorted(between[name] - {'lib', 'main'}, key=lambda n: rank.get(n, 99))) or '(no module of this crate)'}")
        if "--edges" in sys.argv:
            for module, targets in sorted(graph.items()):
                print("::".join(module), "->", " ".join(sorted("::".join(t) for t in targets)))
    for line in wrong:
        print(f"hack/layers.py: {line}", file=sys.stderr)
    sys.exit(bool(wrong))


main()
