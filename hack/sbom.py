#!/usr/bin/env python3
"""Prints what the operator's image is made of, as a CycloneDX 1.5 document.

    hack/sbom.py [TARGET]       default: this machine's processor, gnu

The crates are those that cargo resolves for the target and links into the program: no build scripts' and no tests'
dependencies. What is in the image besides, glibc and the CA bundle, comes from the machine that builds; their versions are
those of its Debian packages. The same Cargo.lock on the same packages gives the same document.
"""
import json
import platform
import subprocess
import sys
import uuid


def run(*command):
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout


def linked(metadata, target):
    """The ids of all packages that `valet` links, and what each of them links."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    # The metadata has whatever any feature of the workspace could ask for; the tree has what this program gets. Macros
    # run in the compiler and are not linked.
    tree = run(
        *"cargo tree --locked --package valet --edges normal,no-proc-macro --prefix none --no-dedupe --target".split(), target
    )
    wanted = {tuple(line.split()[:2]) for line in tree.splitlines()}
    wanted = {p["id"] for p in metadata["packages"] if (p["name"], f"v{p['version']}") in wanted}
    edges, todo = {}, [metadata["resolve"]["root"]]
    while todo:
        package = todo.pop()
        if package in edges:
            continue
        # kind null is a normal dependency.
        edges[package] = sorted(
            dependency["pkg"]
            for dependency in nodes[package]["deps"]
            if any(kind["kind"] is None for kind in dependency["dep_kinds"]) and dependency["pkg"] in wanted
        )
        todo += edges[package]
    return edges


def crate(package, checksums):
    name, version = package["name"], package["version"]
    component = {
        "type": "library",
        "bom-ref": f"pkg:cargo/{name}@{version}",
        "name": name,
        "version": version,
        "purl": f"pkg:cargo/{name}@{version}",
    }
    if package.get("license"):
        # Old crates write A/B for "A or B".
        component["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    if checksum := checksums.get((name, version)):
        component["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    return component


def lock_checksums():
    """Cargo.lock's own words: the hash of each crate as it was downloaded."""
    checksums, name, version = {}, None, None
    with open("Cargo.lock", encoding="utf-8") as lock:
        for line in lock:
            key, _, value = line.strip().partition(" = ")
            if key == "name":
                name = value.strip('"')
            elif key == "version":
                version = value.strip('"')
            elif key == "checksum":
                checksums[name, version] = value.strip('"')
    return checksums


def debian(package, what):
    try:
        version = run("dpkg-query", "--show", "--showformat", "${source:Version}", package).strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    purl = f"pkg:deb/debian/{package}@{version}"
    return {"type": "library", "bom-ref": purl, "name": what, "version": version, "purl": purl}


def main():
    target = sys.argv[1] if len(sys.argv) > 1 else f"{platform.machine()}-unknown-linux-gnu"
    metadata = json.loads(
        run("cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", target, "--manifest-path", "Cargo.toml")
    )
    packages = {package["id"]: package for package in metadata["packages"]}
    checksums = lock_checksums()
    edges = linked(metadata, target)
    root = metadata["resolve"]["root"]
    refs = {package: crate(packages[package], checksums)["bom-ref"] for package in edges}
    others = [part for part in (debian("libc6-dev", "glibc"), debian("ca-certificates", "ca-certificates")) if part]
    components = [crate(packages[package], checksums) for package in edges if package != root] + others
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": {**crate(packages[root], checksums), "type": "application"},
            "properties": [{"name": "cargo:target", "value": target}],
        },
        "components": sorted(components, key=lambda part: part["purl"]),
        "dependencies": sorted(
            (
                {
                    "ref": refs[package],
                    "dependsOn": sorted({refs[other] for other in others_})
                    + ([part["bom-ref"] for part in others] if package == root else []),
                }
                for package, others_ in edges.items()
            ),
            key=lambda entry: entry["ref"],
        ),
    }
    # Named by what it says, not by chance.
    number = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(document, sort_keys=True))
    document["serialNumber"] = f"urn:uuid:{number}"
    json.dump(document, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
